"""The report of a run: one HTML file with tables, plots and pictures.

``contents`` is what it is made from; ``gallery`` and ``coordinates`` gather parts of that;
``tables`` and ``data`` turn it into texts and numbers; ``page/`` is the page itself.
"""
