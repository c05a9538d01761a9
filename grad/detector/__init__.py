"""A trained model at work: its file, its engine, its results."""

from grad.detector.detector import Detector
from grad.detector.result import Result

__all__ = ["Detector", "Result"]
