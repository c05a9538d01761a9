"""``grad info``: what this GRAD was built for, and whether it computes right."""
