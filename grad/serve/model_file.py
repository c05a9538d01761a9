"""The file of a served model, where what is decided on the page is written back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from grad.data.samples import Roi, Sample
from grad.detector.checkpoint import (
    ModelInfo,
    Update,
    load_calibration,
    load_checkpoint,
    load_origin,
    save_calibration,
)
from grad.detector.detector import Detector
from grad.detector.features import features_for
from grad.detector.learning import (
    check_can_learn,
    judge_defects,
    learn,
    without_known_images,
)
from grad.detector.region import with_region
from grad.detector.updating import claimed_update, save_update
from grad.score.thresholds import Threshold, no_thresholds
from grad.serve.scorer import Scorer
from grad.system.clock import utc_time
from grad.system.errors import GradError


class ModelFile:
    """A model file that a server may change.

    Args:
        file: the ``model.safetensors``.
        load: reads it as it is served.
    """

    def __init__(self, file: Path, load: Callable[[], Detector]) -> None:
        self._file, self._load = file, load

    def move_threshold(
        self, scorer: Scorer, class_name: str | None, image: float
    ) -> tuple[Scorer, Threshold]:
        """Make another threshold that of a class, in the file too; the scorer and threshold then.

        Args:
            scorer: what is served now.
            class_name: None: of a class not stated.
            image: image scores above are anomalous; the threshold of map values moves along.

        Raises:
            GradError: it is none; the file can't be written, or is another by now.
        """
        if scorer.calibration is None:
            raise GradError(no_thresholds("The model"))
        moved = scorer.calibration.threshold(class_name).moved_to(image, utc_time())
        with claimed_update(self._file):
            self._check_unchanged(scorer)
            _, calibration = load_calibration(self._file)
            assert calibration is not None
            save_calibration(self._file, calibration.with_threshold(class_name, moved))
            origin = load_origin(self._file)
        known = scorer.calibration.with_threshold(class_name, moved)
        return scorer.with_calibration(known, origin), moved

    def learn_from(
        self, scorer: Scorer, class_name: str, good: Sequence[Path], defects: Sequence[Path]
    ) -> tuple[Scorer, Update]:
        """Let the model learn from images, as ``grad update`` does; the scorer then, and a record.

        Args:
            scorer: what is served now.
            class_name: of the images.
            good: to learn from.
            defects: may raise the threshold, and are judged by the model as it is then.

        Raises:
            GradError: the model can't learn, or from nothing new; the file can't be written, or is
                another by now.
        """
        with claimed_update(self._file):
            self._check_unchanged(scorer)
            loaded = load_checkpoint(self._file, scorer.device)
            check_can_learn(loaded)
            samples = [Sample(path, class_name, "train") for path in good]
            features = without_known_images(loaded, features_for(loaded, samples))
            if not len(features):
                raise GradError(
                    f"The model learned from all good images of class {class_name} before: say of "
                    "more that they were good."
                )
            learned = learn(loaded, features)
            if defects:
                shown = [Sample(path, class_name, "train", True) for path in defects]
                learned, _ = judge_defects(learned, features_for(loaded, shown))
            save_update(learned, self._file)
        return self._load(), learned.info.updates[-1]

    def set_region(
        self, scorer: Scorer, class_name: str | None, roi: Roi | None
    ) -> tuple[Scorer, ModelInfo]:
        """Give a class a region of interest, in the file too; the scorer then, and what it is.

        Args:
            scorer: what is served now.
            class_name: None: all classes.
            roi: not painted; None: all of an image.

        Raises:
            GradError: as :func:`grad.detector.region.with_region`; the file can't be written, or is
                another by now.
        """
        with claimed_update(self._file):
            self._check_unchanged(scorer)
            changed = with_region(load_checkpoint(self._file, scorer.device), roi, class_name)
            save_update(changed, self._file)
        return self._load(), changed.info

    def _check_unchanged(self, scorer: Scorer) -> None:
        now = load_origin(self._file)
        if scorer.origin is None or scorer.origin.version != now.version:
            raise GradError(
                f"The model in {self._file} is another since this server started: start it again."
            )
