"""``grad train``: from good images to a judged model."""
