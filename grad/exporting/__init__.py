"""Models as files for other runtimes, each verified before it is there."""

from grad.exporting.run import FORMATS, export_model

__all__ = ["FORMATS", "export_model"]
