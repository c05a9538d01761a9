"""Metrics of one class of test images, and the report over classes."""

from grad.metrics.classes import METRICS, ClassMetrics, ClassReport, summarize

__all__ = ["METRICS", "ClassMetrics", "ClassReport", "summarize"]
