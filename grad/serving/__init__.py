"""The inspection page and the REST end point of ``python -m grad.serve``.

``app`` puts the parts together: ``uploads`` reads and decodes, ``batching`` scores, ``answers``
says what came out, ``access`` guards, ``metrics`` counts, ``page`` is what a browser shows.
"""
