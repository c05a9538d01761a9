"""Folder layouts: what a folder of images is, and the samples in it.

A family of layouts is a module here and a row in :mod:`grad.data.layouts.known`.
"""

from grad.data.layouts.find import find_dataset, survey_dataset

__all__ = ["find_dataset", "survey_dataset"]
