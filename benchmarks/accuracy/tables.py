"""The rows of the paper's tables 1 to 9."""

from __future__ import annotations

from accuracy.paper import MVTEC_MEANS, NONE, VISA_MEANS, Figure
from accuracy.rows import Method, Row, Table

PLUS = Row("grad-plus, all its parts", {"preset": "grad-plus"})
_PLAIN = {"refine": "none", "jitter": "off"}  # before the paper adds either


def _local(kind: str, entries: int, paper: Figure = NONE) -> Row:
    own = (
        {"local_resolution": round(entries**0.5)} if kind == "grid" else {"local_entries": entries}
    )
    overrides = {"parts": "local", "local": kind, **own, **_PLAIN}
    return Row(f"local {_NAMES[kind]}, {entries}", overrides, paper=paper)


def _global(kind: str, entries: int, paper: Figure = NONE) -> Row:
    square = {"global_resolution": round(entries**0.5)}
    own = square if kind == "grid" else {"global_entries": entries}
    overrides = {"parts": "global", "global_": kind, **own, **_PLAIN}
    return Row(f"global {_NAMES[kind]}, {entries}", overrides, paper=paper)


_NAMES = {"grid": "grid", "vq": "vector quantisation", "attention": "attention"}

LOOKUPS = Table(
    1,
    "Grid, vector quantisation and attention, by number of entries",
    (
        _local("vq", 64, (97.0, 96.0)),
        _local("vq", 256, (97.4, 96.1)),
        _local("attention", 64, (95.9, 96.4)),
        _local("attention", 256, (95.5, 96.2)),
        _local("grid", 64, (98.0, 97.1)),
        _local("grid", 256),
        _global("vq", 16, (78.9, 86.7)),
        _global("vq", 64, (76.9, 86.1)),
        _global("attention", 16, (79.8, 88.0)),
        _global("attention", 64, (80.1, 87.8)),
        _global("grid", 16, (93.0, 95.7)),
        _global("grid", 64),
        PLUS,
    ),
    note="One perspective a row, without refinement and jitter; a grid of 64 entries is 8 x 8.",
)


def _classes(means: dict[tuple[str, str], Figure]) -> tuple[Row, ...]:
    return (
        Row("GRAD unified", paper=means["GRAD", "unified"]),
        Row("GRAD separate", {"separate": True}, paper=means["GRAD", "separate"]),
        Row("grad-plus unified", {"preset": "grad-plus"}),
        Row("UniAD unified", method="uniad", paper=means.get(("UniAD", "unified"), NONE)),
        Row("memory bank unified", method="memory bank"),
    )


DETECTION = Table(
    2, "Detection by class", _classes(MVTEC_MEANS), "classes", metrics=("image_auroc",)
)
LOCALISATION = Table(
    3, "Localisation by class", _classes(MVTEC_MEANS), "classes", metrics=("pixel_auroc",)
)
VISA = Table(4, "Detection / localisation by class", _classes(VISA_MEANS), "classes", data="VisA")

PARTS = Table(
    5,
    "Parts switched on one by one",
    (
        Row("global", {"parts": "global", **_PLAIN}, paper=(93.0, 95.7)),
        Row("local", {"parts": "local", **_PLAIN}, paper=(98.0, 97.1)),
        Row("local + global", _PLAIN, paper=(98.9, 97.7)),
        Row("local + global + refinement", {"jitter": "off"}, paper=(99.2, 97.8)),
        Row("local + global + refinement + jitter", paper=(99.3, 97.8)),
        PLUS,
    ),
)

COST = Table(
    6,
    "Cost and accuracy",
    (
        Row(
            "UniAD",
            method="uniad",
            paper=MVTEC_MEANS["UniAD", "unified"],
            paper_epochs=1000,
            paper_parameters=7.5e6,
            paper_gflop=6.5,
        ),
        Row(
            "GRAD-S (grad-s)",
            {"preset": "grad-s"},
            paper=(99.0, 97.9),
            paper_epochs=100,
            paper_parameters=6.2e6,
            paper_gflop=5.1,
        ),
        Row(
            "GRAD (grad)",
            {"preset": "grad"},
            paper=MVTEC_MEANS["GRAD", "unified"],
            paper_epochs=100,
            paper_parameters=13.8e6,
            paper_gflop=17.4,
        ),
        Row("grad-plus", {"preset": "grad-plus"}),
        Row("memory bank", method="memory bank"),
    ),
    "cost",
)


def _shots(name: str, method: Method, *papers: Figure, **overrides: str) -> tuple[Row, ...]:
    return tuple(
        Row(
            f"{name}, {shots} shot{'s' if shots > 1 else ''}",
            {"few_shot": shots, **overrides},
            method,
            equal_steps=method != "memory bank",
            paper=paper,
        )
        for shots, paper in zip((1, 2, 4), papers or (NONE,) * 3, strict=True)
    )


SHOTS = Table(
    7,
    "Few training images a class",
    (
        *_shots("UniAD", "uniad", (80.3, 91.2), (82.2, 92.4), (83.6, 93.1)),
        *_shots("memory bank", "memory bank"),
        *_shots("GRAD", "grad", (82.3, 92.2), (89.0, 95.4), (92.1, 96.3)),
        *_shots("grad-plus", "grad", preset="grad-plus"),
    ),
    note="Networks are trained for as many steps as all images would give. The paper's PatchCore, "
    "of which the memory bank here is a smaller kin, has 82.7 / 91.8, 87.5 / 93.8 and 89.3 / 94.6.",
)


def _dims(local: tuple[int, int], global_: tuple[int, int], paper: Figure) -> Row:
    overrides = {
        "local_dims": local[0],
        "local_resolution": local[1],
        "global_dims": global_[0],
        "global_resolution": global_[1],
    }
    name = " / ".join(f"{dims}-D ({cells})" for dims, cells in (local, global_))
    return Row(name, overrides, paper=paper)


DIMENSIONS = Table(
    8,
    "Dimensions (and cells along each) of the local / global grid",
    (
        _dims((1, 64), (2, 4), (99.2, 97.7)),
        _dims((3, 8), (2, 4), (99.3, 97.7)),
        _dims((2, 8), (1, 16), (99.2, 97.7)),
        _dims((2, 8), (3, 4), (99.1, 97.8)),
        _dims((2, 8), (2, 4), (99.3, 97.8)),
        PLUS,
    ),
)

REFINEMENT = Table(
    9,
    "Refinement",
    (
        Row("by squared error", {"refine": "mse"}, paper=(99.0, 97.6)),
        Row("by cosine", {"refine": "cosine"}, paper=(98.7, 97.8)),
        Row("by both", {"refine": "combined"}, paper=(99.3, 97.8)),
        PLUS,
    ),
)

TABLES = {
    table.number: table
    for table in (
        LOOKUPS,
        DETECTION,
        LOCALISATION,
        VISA,
        PARTS,
        COST,
        SHOTS,
        DIMENSIONS,
        REFINEMENT,
    )
}
