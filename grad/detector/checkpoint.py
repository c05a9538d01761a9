"""``model.safetensors``: weights, and in its metadata everything that predicting needs.

Tensors ``model.*`` are GRAD's, ``backbone.*`` those of the frozen backbone, so that a model file
needs nothing else; ``exemplars.CLASS`` are what it learns on with. Tensors and JSON only: reading a
checkpoint never runs code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grad.data.samples import FULL_WHITE, Augmentation, Roi
from grad.detector.exemplars import Exemplars
from grad.features.backbone import Backbone, restore_backbone
from grad.model.grad import GRAD
from grad.score.thresholds import Calibration
from grad.system.devices import plain_defaults
from grad.system.errors import GradError, first_line
from grad.system.files import finish_replacing, replacing
from grad.system.names import printable
from grad.system.run_folder import MODEL
from grad.system.version import __version__

# Of models without and with statistics, whose tensors are others since the third.
_FORMATS = {False: "grad-model/2", True: "grad-model/3"}

_MODEL, _BACKBONE, _EXEMPLARS = "model.", "backbone.", "exemplars."
DIGEST = "digest"
_VERSION = 12  # digits of the digest, enough to tell models apart


@dataclass(frozen=True)
class Origin:
    """Which file a model came from, so that an answer says what gave it.

    Attributes:
        name: of the folder of its run; of the file, where that has a name of its own.
        version: of its content, thresholds too: 12 hexadecimal digits of a digest.
    """

    name: str
    version: str


@dataclass(frozen=True)
class Update:
    """What a model learned after its training, or which region it got, once.

    Attributes:
        time: when, in UTC, ISO 8601.
        class_name: of the images, or of the region; None: of all classes.
        images: names of their files.
        digests: of their contents, 16 hexadecimal digits each.
        false_alarms: how many of them the model had called anomalous.
        still_alarms: how many of those it would call so yet, had it learned from the others alone.
        threshold_before, threshold_after: image score of the class; before None where it came new.
            Of all classes that of one not stated.
        defects, found: defects that were judged by it then, which may have raised the threshold,
            and how many of them it finds.
        region: whether it got another region of interest, or none; where there are images too, the
            threshold was made from these alone.
        unsure: whether false alarms may be more than before
            (:data:`grad.detector.learning.UNSURE`).
    """

    time: str
    class_name: str | None
    images: tuple[str, ...]
    digests: tuple[str, ...]
    false_alarms: int
    still_alarms: int
    threshold_before: float | None
    threshold_after: float
    defects: int = 0
    found: int = 0
    region: bool = False
    unsure: bool = False


@dataclass(frozen=True)
class ModelInfo:
    """What predicting needs beside the networks and the calibration.

    Attributes:
        backbone: its name, as :func:`grad.features.backbone.load_backbone` takes it.
        backbone_maps, backbone_inner: which of its feature maps are used, see
            :class:`grad.features.backbone.Backbone`.
        backbone_fingerprint: of the weights that the model was trained on; others don't fit.
        image_size: side of the square that images are resized to, in pixels.
        mean, std: the backbone's normalisation of the three colour channels.
        classes: what the model was trained on.
        epochs: completed epochs.
        white_level: the 16-bit value that counts as white (:mod:`grad.data.white_level`).
        tile, overlap: what it learned from (:class:`grad.data.tiling.Tiling`); None: whole images.
        grad_version: the version that trained it.
        updates: what it learned since, in order.
        rois: regions of interest, of classes that have one (:mod:`grad.data.roi`).
        min_area: pixels of an image's smallest region that counts (:mod:`grad.score.regions`).
        augment: in which ways its good images stay good (:mod:`grad.data.augment`).
    """

    backbone: str
    backbone_maps: tuple[int, ...]
    backbone_fingerprint: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    epochs: int
    tile: int | None = None
    overlap: int | None = None
    backbone_inner: bool = False
    white_level: int = FULL_WHITE
    grad_version: str = __version__
    updates: tuple[Update, ...] = ()
    rois: dict[str, Roi] = field(default_factory=dict)
    min_area: int = 1
    augment: tuple[Augmentation, ...] = ()

    def roi(self, class_name: str | None) -> Roi | None:
        """The region of interest of an image of a class, or of one not stated.

        Raises:
            GradError: the class is not stated, and regions differ.
        """
        if class_name is None and self.has_several_rois:
            raise GradError(
                "The model's classes have different regions of interest: say of which class the "
                "images are, with --class-name or class_name."
            )
        if class_name is None:
            class_name = next(iter(self.classes), "")
        return self.rois.get(class_name)

    def is_cut_later(self, class_name: str | None) -> bool:
        """Whether a class's scores are of a region that came after its threshold.

        Then they are at most what the images behind the threshold would have scored. Of a class not
        stated: whether those of any are.
        """

        def is_cut(name: str) -> bool:
            made = [u.images for u in self.updates if u.region and u.class_name in (None, name)]
            return name in self.rois and not self.rois[name].painted and not any(made[-1:])

        return any(map(is_cut, self.classes if class_name is None else (class_name,)))

    @property
    def has_several_rois(self) -> bool:
        """Whether the regions of interest of classes differ."""
        return len({self.rois.get(name) for name in self.classes}) > 1

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        *,
        image_size: int,
        classes: Sequence[str],
        epochs: int,
        tile: int | None = None,
        overlap: int | None = None,
        white_level: int = FULL_WHITE,
        rois: Mapping[str, Roi] | None = None,
        min_area: int = 1,
        augment: Sequence[Augmentation] = (),
    ) -> ModelInfo:
        """What belongs to a model that was trained on this backbone's features."""
        return cls(
            backbone=backbone.name,
            backbone_maps=tuple(backbone.maps),
            backbone_inner=backbone.inner,
            backbone_fingerprint=backbone.fingerprint,
            image_size=image_size,
            mean=tuple(backbone.mean.flatten().tolist()),
            std=tuple(backbone.std.flatten().tolist()),
            classes=tuple(classes),
            epochs=epochs,
            tile=tile,
            overlap=overlap,
            white_level=white_level,
            rois=dict(rois or {}),
            min_area=min_area,
            augment=tuple(augment),
        )


@dataclass(frozen=True)
class LoadedModel:
    """The content of a model file, ready to predict (evaluation mode).

    Attributes:
        model: GRAD.
        backbone: images to the feature maps that ``model`` takes.
        info: what belongs to them.
        calibration: thresholds; None for a run that was interrupted before it had any.
        exemplars: images of each class, on the CPU; none where the model keeps none.
        origin: where it came from; None for one that is in no file yet.
    """

    model: GRAD
    backbone: Backbone
    info: ModelInfo
    calibration: Calibration | None
    exemplars: Exemplars = field(default_factory=dict)
    origin: Origin | None = None


def save_checkpoint(
    path: Path,
    model: GRAD,
    backbone: Backbone,
    info: ModelInfo,
    calibration: Calibration | None = None,
    exemplars: Exemplars | None = None,
) -> None:
    """Write a model; the file is whole or not there.

    Raises:
        GradError: the file can't be written.
    """
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    tensors |= {_BACKBONE + name: tensor for name, tensor in backbone.state_dict().items()}
    tensors |= {_EXEMPLARS + name: maps for name, maps in (exemplars or {}).items()}
    metadata = {
        "format": _FORMATS[model.statistics is not None],
        "model": json.dumps(asdict(model.settings)),
        "info": json.dumps(asdict(info)),
        "calibration": json.dumps(None if calibration is None else calibration.to_json()),
    }
    _write(path, {k: t.detach().cpu().contiguous() for k, t in tensors.items()}, metadata)


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Exchange the thresholds in a model file; its weights stay as they are.

    Raises:
        GradError: as :func:`load_checkpoint`; the file can't be written.
    """
    metadata, tensors = _read(path)
    _write(path, tensors, metadata | {"calibration": json.dumps(calibration.to_json())})


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """Read a model and everything that it needs; nothing is downloaded.

    Args:
        path: a model file, or the folder of a run that holds ``model.safetensors``.
        device: where both networks go.

    Raises:
        GradError: no such file; no GRAD checkpoint; a damaged one; one of another format; a
            backbone that the installed timm does not have.
    """
    path = model_file(path)
    metadata, tensors = _read(path)
    with _explained(path), plain_defaults():
        info, calibration = _info(metadata), _calibration(metadata)
        with torch.random.fork_rng(devices=[]):  # what is initialised here is overwritten
            model = GRAD.from_preset(**json.loads(metadata["model"]))
        # assign=False: values go into the channels_last memory that from_preset has chosen.
        model.load_state_dict(tensors_under(_MODEL, tensors))
        state = tensors_under(_BACKBONE, tensors)
        backbone = restore_backbone(
            info.backbone, info.backbone_maps, state, inner=info.backbone_inner
        )
        exemplars = dict(sorted(tensors_under(_EXEMPLARS, tensors).items()))
        _check_exemplars(exemplars, info, model)
    if backbone.fingerprint != info.backbone_fingerprint:
        raise GradError(
            f"The model {path} is damaged (the weights of its backbone are not those that it was "
            "trained on): copy or train it again."
        )
    return LoadedModel(
        model.eval().to(device),
        backbone.to(device),
        info,
        calibration,
        exemplars,
        origin=_origin(path, metadata, tensors),
    )


def load_calibration(path: Path) -> tuple[ModelInfo, Calibration | None]:
    """What a model file says about itself and its thresholds; no weights are read.

    Raises:
        GradError: as :func:`load_checkpoint`.
    """
    with _opened(path) as file, _explained(path):
        metadata = file.metadata()
        return _info(metadata), _calibration(metadata)


def load_origin(path: Path) -> Origin:
    """What a model file is called, and its version now.

    Raises:
        GradError: as :func:`load_checkpoint`.
    """
    with _opened(path) as file:
        metadata = file.metadata()
    return _origin(path, metadata, {} if DIGEST in metadata else _read(path)[1])


def exemplar_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Of each class (n, H, W, C) of the exemplars that a model file holds; they are not read.

    Raises:
        GradError: as :func:`load_checkpoint`.
    """
    with _opened(path) as file, _explained(path):
        names = [name for name in file.keys() if name.startswith(_EXEMPLARS)]  # noqa: SIM118
        return {
            name.removeprefix(_EXEMPLARS): tuple(file.get_slice(name).get_shape())
            for name in sorted(names)
        }


def model_file(path: Path | str) -> Path:
    """The model file that a path means: itself, or the one in the folder of a run.

    Raises:
        GradError: there is none, or there are several (``--separate``).
    """
    files = model_files(path)
    if len(files) > 1:
        names = ", ".join(file.parent.name for file in files[:5])
        raise GradError(f"{path} holds one model a class: give one of its folders, {names}.")
    return files[0]


def model_files(path: Path | str) -> list[Path]:
    """The model files that a path means: itself, the one in a run's folder, or one a class there.

    Raises:
        GradError: there is none.
    """
    path = Path(path).expanduser()
    try:
        finish_replacing(path if path.is_dir() else path.parent)
        if path.is_dir():
            own = path / MODEL
            files = [own] if own.is_file() else sorted(path.glob(f"*/{MODEL}"))
            if not files:
                raise GradError(f"The folder {path} holds no {MODEL}: train first.")
            return files
        if not path.is_file():
            raise GradError(f"The model {path} does not exist: give the {MODEL} of a run.")
    except PermissionError as error:
        raise GradError(f"The model {path} can't be read ({error.strerror}).") from error
    return [path]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file in this format."""
    with _opened(path) as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # Older files have none.
    if DIGEST in metadata and metadata[DIGEST] != digest(metadata, tensors):
        raise GradError(
            f"The model {path} is damaged (its content is not what was written): copy or train it "
            "again."
        )
    return metadata, tensors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file in this format, open for reading by name."""
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            with _explained(path):
                _check_format(path, metadata)
            yield file
    except (SafetensorError, OSError) as error:
        raise GradError(
            f"The model {path} is damaged or no safetensors file ({error}): copy or train it again."
        ) from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong with a header or with weights that don't fit it, as a sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise GradError(
            f"The model {path} has a header that does not fit its weights ({first_line(error)}): "
            "copy or train it again."
        ) from error


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata = metadata | {DIGEST: digest(metadata, tensors)}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # its way to report a full disk
            raise OSError(str(error)) from error


def digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over every tensor, and all else that a file says."""
    found = hashlib.sha256()
    for name, text in sorted(metadata.items()):
        if name != DIGEST:
            found.update(f"{name}\0{text}\0".encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\0{tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def tensors_under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with a prefix, under their name without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _origin(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> Origin:
    file = path.resolve()
    name = file.parent.name if file.name == MODEL else file.stem
    whole = metadata.get(DIGEST) or digest(metadata, tensors)  # older files have none
    return Origin(printable(name), whole[:_VERSION])


def _check_exemplars(exemplars: Exemplars, info: ModelInfo, model: GRAD) -> None:
    s = model.settings
    for name, maps in exemplars.items():
        shape = (len(maps), s.height, s.width, s.channels)
        if name not in info.classes or maps.shape != shape or maps.dtype != torch.float16:
            raise ValueError(f"its exemplars of {name} are {maps.dtype} {tuple(maps.shape)}")


def _info(metadata: dict[str, str]) -> ModelInfo:
    fields: dict[str, Any] = json.loads(metadata["info"])
    for name in ("backbone_maps", "mean", "std", "classes"):
        fields[name] = tuple(fields[name])
    fields["augment"] = tuple(fields.get("augment", ()))
    fields["updates"] = tuple(_update(values) for values in fields.get("updates", ()))
    fields["rois"] = {name: Roi(**roi) for name, roi in fields.get("rois", {}).items()}
    info = ModelInfo(**fields)
    numbers = {"image_size": info.image_size, "tile": info.tile, "overlap": info.overlap}
    for name, value in (numbers | {"epochs": info.epochs}).items():
        optional = name in ("tile", "overlap") and value is None
        if not optional and (type(value) is not int or value < 0):
            raise ValueError(f"its {name} is {value!r}")
    if not all(isinstance(name, str) for name in info.classes) or info.image_size < 1:
        raise ValueError(f"its classes are {info.classes}, its image_size {info.image_size}")
    if type(info.white_level) is not int or not 1 <= info.white_level <= FULL_WHITE:
        raise ValueError(f"its white_level is {info.white_level!r}")
    if type(info.min_area) is not int or info.min_area < 1:
        raise ValueError(f"its min_area is {info.min_area!r}")
    if not set(info.augment) <= set(get_args(Augmentation)):
        raise ValueError(f"its augment is {info.augment}")
    return info


def _update(values: dict[str, Any]) -> Update:
    lists = {name: tuple(values[name]) for name in ("images", "digests")}
    return Update(**{**values, **lists})


def _calibration(metadata: dict[str, str]) -> Calibration | None:
    fields = json.loads(metadata["calibration"])
    return None if fields is None else Calibration.from_json(fields)


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    found = metadata.get("format")
    if found is None:
        raise GradError(
            f"{path} is a safetensors file, but no GRAD model: give the {MODEL} of a run."
        )
    expected = _FORMATS[bool(json.loads(metadata["model"]).get("statistics"))]
    if found != expected:
        raise GradError(
            f"The model {path} has format {found}, this GRAD {__version__} reads {expected}: "
            "use the version of GRAD that wrote it, or train again."
        )


def _refuse_pickle(path: Path) -> None:
    """A PyTorch file is a pickle, plain (first byte 0x80) or in a zip archive."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise GradError(f"The model {path} can't be read ({error.strerror}).") from error
    if start == b"PK" or (start[:1] == b"\x80" and start[1:] < b"\x06"):
        raise GradError(
            f"{path} is a pickle or an archive, which can run code when it is read: GRAD reads "
            f"only the {MODEL} of its own runs."
        )
