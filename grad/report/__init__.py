"""The report of a run: one HTML file with tables, plots and pictures.

``contents`` is what it is made from; ``gallery`` and ``coordinates`` gather parts of that;
``tables`` and ``data`` turn it into texts and numbers; ``page/`` is the page itself.
"""

from grad.report.contents import About, ModelPart
from grad.report.coordinates import Coordinates, sample_coordinates
from grad.report.gallery import Gallery
from grad.report.write import update_report, write_report

__all__ = [
    "About",
    "Coordinates",
    "Gallery",
    "ModelPart",
    "sample_coordinates",
    "update_report",
    "write_report",
]
