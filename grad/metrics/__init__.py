"""Metrics of one class of test images, and the report over classes."""

from grad.metrics.classes import METRICS, ClassMetrics, ClassReport, summarize
from grad.metrics.pixels import exact_pixels

__all__ = ["METRICS", "ClassMetrics", "ClassReport", "exact_pixels", "summarize"]
