"""Metrics of test images."""
