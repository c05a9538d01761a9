"""Metrics of one class of test images, and the report over classes."""

from grad.metrics.classes import METRICS, ClassMetrics, ClassReport, summarize
from grad.metrics.pixels import EXACT_PIXELS

__all__ = ["EXACT_PIXELS", "METRICS", "ClassMetrics", "ClassReport", "summarize"]
