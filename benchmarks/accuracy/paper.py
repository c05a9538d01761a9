"""The paper's own figures, AUROC in per cent: (image, pixel).

Source: arXiv 2402.18293v1, Tables 1 to 9, and the README of the released code. Of the classes of
Tables 2 to 4 those are here whose figures are known. UniAD's number of epochs is that of its
released configuration.
"""

from __future__ import annotations

Figure = tuple[float | None, float | None]  # image AUROC, pixel AUROC

NONE: Figure = (None, None)

MVTEC_CLASSES = {
    *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut"),
    *("pill", "screw", "tile", "toothbrush", "transistor", "wood", "zipper"),
}
VISA_CLASSES = {
    *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
    *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
}

# (method, unified or separate): the mean over the classes of the data set.
MVTEC_MEANS: dict[tuple[str, str], Figure] = {
    ("GRAD", "unified"): (99.3, 97.8),
    ("GRAD", "separate"): (99.4, 97.9),
    ("UniAD", "unified"): (96.5, 96.8),
    ("PatchCore", "unified"): (97.6, 97.1),
    ("HVQ-Trans", "unified"): (98.0, 97.3),
}
VISA_MEANS: dict[tuple[str, str], Figure] = {
    ("GRAD", "unified"): (95.2, 98.5),
    ("GRAD", "separate"): (95.5, 98.3),
    ("PatchCore", "unified"): (93.7, 97.5),
    ("OmniAL", "unified"): (87.8, 96.6),
}

# GRAD, unified, of single classes.
MVTEC_GRAD: dict[str, Figure] = {
    "bottle": (100.0, 98.4),
    "toothbrush": (99.3, 98.8),
    "transistor": (99.9, 98.3),
    "capsule": (96.9, None),
    "screw": (97.5, None),
    "pill": (97.8, None),
    "wood": (None, 94.0),
    "tile": (None, 94.2),
}
# GRAD, one model a class.
MVTEC_GRAD_SEPARATE: dict[str, Figure] = {
    "bottle": (100.0, 98.5),
    "toothbrush": (97.2, 94.1),
    "transistor": (99.9, 98.7),
}
VISA_GRAD: dict[str, Figure] = {"capsules": (87.3, None), "pcb2": (90.5, None)}
