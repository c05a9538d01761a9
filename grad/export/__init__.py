"""``grad export``: a model as a file for another runtime, verified before it is there."""
