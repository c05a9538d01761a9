"""``grad serve``: an inspection page and a REST end point.

``app`` puts the parts together: ``uploads`` reads and decodes, ``batching`` scores, ``answers``
says what came out, ``access`` guards, ``prometheus`` counts, ``page`` is what a browser shows.
"""
