"""``grad evaluate``: a model judged on other images, or by other thresholds."""
