"""What people give back to a model: what images were, thresholds, regions, and that it learns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request

from grad.data.roi import looked_at_share, roi_of
from grad.detector.learning import UNSURE
from grad.detector.region import describe_thresholds
from grad.serve import failures
from grad.serve.answers import (
    Counts,
    Feedback,
    Info,
    LearnedFeedback,
    MovedThreshold,
    SavedRegion,
)
from grad.serve.feedback import MOST_IMAGES, MOST_MB, SAID, FeedbackFolder, Said
from grad.serve.inspector import Inspector, Wanted
from grad.serve.model_file import ModelFile
from grad.serve.scorer import Scorer
from grad.serve.uploads import decode, read_upload
from grad.system.errors import GradError

_Result = TypeVar("_Result")


class Teaching:
    """Keeps feedback, and changes a model where the server has a token.

    Args:
        inspector: judges by the model.
        folder: where feedback is kept; None: nowhere.
        file: of the model; None: it is not changed.
    """

    def __init__(
        self,
        inspector: Inspector,
        folder: FeedbackFolder | None = None,
        file: ModelFile | None = None,
    ) -> None:
        self._inspector, self._folder = inspector, folder
        self._file = None if inspector.settings.token is None else file
        self._changing = asyncio.Lock()

    def info(self) -> Info:
        """What there is to know about the model, and of what can be given back."""
        offered = {
            "keeps_feedback": self._folder is not None,
            "can_change": self._file is not None,
        }
        return self._inspector.info.model_copy(update=offered)

    async def keep(
        self, request: Request, class_name: str | None, said: Said, name: str | None
    ) -> Feedback:
        """Keep an image with what was said of it.

        Raises:
            Refused: see :mod:`grad.serve.failures`.
        """
        folder = self._kept_in()
        class_name = self._one_class(class_name)
        upload, answer = await self._inspector.look_at(
            request, Wanted(class_name, False, False, False)
        )
        answer.name = name or upload.name
        row = answer.model_dump(exclude={"map", "overlay", "preview", "drift"})
        try:
            path = await self._inspector.in_pool(
                lambda: folder.keep(upload.data, answer.name, class_name, said, row)
            )
        except GradError as error:
            raise failures.not_done(error, 507) from error
        return await self.feedback(path.relative_to(folder.folder).as_posix())

    async def feedback(self, file: str | None = None) -> Feedback:
        """What is kept.

        Raises:
            Refused: nothing is.
        """
        kept = await self._inspector.in_pool(self._kept_in().kept)
        classes: dict[str, Counts] = {}
        for one in kept:
            counts = classes.setdefault(one.class_name, Counts())
            setattr(counts, one.said, getattr(counts, one.said) + 1)
        return Feedback(
            file=file,
            classes=classes,
            megabytes=sum(one.size for one in kept) / 1e6,
            most_images=MOST_IMAGES,
            most_megabytes=MOST_MB,
        )

    async def learn(self, class_name: str | None) -> LearnedFeedback:
        """Let the model learn from the feedback of a class.

        Raises:
            Refused: see :mod:`grad.serve.failures`.
        """
        file, name = self._changeable(), self._one_class(class_name)
        kept = [one for one in self._kept_in().kept() if one.class_name == name]
        good, defects = ([one.path for one in kept if one.said == said] for said in SAID)
        if not good:
            raise failures.not_done(
                GradError(f"No image of class {name} was said to be good: there is nothing yet.")
            )
        scorer, update = await self._changed(
            lambda: file.learn_from(self._inspector.scorer, name, good, defects)
        )
        assert scorer.origin is not None
        return LearnedFeedback(
            class_name=name,
            images=list(update.images),
            false_alarms=update.false_alarms,
            threshold_before=update.threshold_before,
            threshold_after=update.threshold_after,
            defects=update.defects,
            found=update.found,
            time=update.time,
            model_version=scorer.origin.version,
            note=UNSURE if update.unsure else None,
        )

    async def move_threshold(self, class_name: str | None, image: float) -> MovedThreshold:
        """Make another threshold that of a class, in the model's file.

        Raises:
            Refused: see :mod:`grad.serve.failures`.
        """
        file, known = self._changeable(), self._inspector.scorer.calibration
        if class_name not in (None, *self._inspector.scorer.classes):
            raise failures.unknown_class(str(class_name), self._inspector.scorer.classes)
        scorer, moved = await self._changed(
            lambda: file.move_threshold(self._inspector.scorer, class_name, image)
        )
        assert known is not None and scorer.origin is not None and moved.moved is not None
        return MovedThreshold(
            class_name=class_name,
            before=known.threshold(class_name).image,
            after=moved.image,
            time=moved.moved,
            model_version=scorer.origin.version,
        )

    async def set_region(self, request: Request, class_name: str | None) -> SavedRegion:
        """Give a class a region of interest, in the model's file.

        Raises:
            Refused: see :mod:`grad.serve.failures`.
        """
        file, settings = self._changeable(), self._inspector.settings
        if class_name not in (None, *self._inspector.scorer.classes):
            raise failures.unknown_class(str(class_name), self._inspector.scorer.classes)
        upload = await read_upload(request, settings)
        picture = await self._inspector.in_pool(lambda: decode(upload, settings))
        try:
            roi = await self._inspector.in_pool(lambda: roi_of(picture, painted=False))
        except GradError as error:
            raise failures.not_done(error, 422) from error
        scorer, info = await self._changed(
            lambda: file.set_region(self._inspector.scorer, class_name, roi)
        )
        assert scorer.origin is not None
        return SavedRegion(
            class_name=class_name,
            share=looked_at_share(roi),
            note=describe_thresholds(info),
            time=info.updates[-1].time,
            model_version=scorer.origin.version,
        )

    async def _changed(
        self, change: Callable[[], tuple[Scorer, _Result]]
    ) -> tuple[Scorer, _Result]:
        """Change the model, one change at a time, and judge by it from then on."""
        if self._changing.locked():
            raise failures.not_done(GradError("The model is being changed: wait for that."))
        async with self._changing:
            try:
                scorer, result = await asyncio.to_thread(change)
            except GradError as error:
                raise failures.not_done(error) from error
            self._inspector.use(scorer)
        return scorer, result

    def _kept_in(self) -> FeedbackFolder:
        if self._folder is None:
            raise failures.no_feedback()
        return self._folder

    def _changeable(self) -> ModelFile:
        if self._file is None:
            raise failures.no_token()
        return self._file

    def _one_class(self, class_name: str | None) -> str:
        """The class that is named, or the model's only one."""
        known = self._inspector.scorer.classes
        if class_name is None and len(known) > 1:
            raise failures.no_class(known)
        if class_name not in (None, *known):
            raise failures.unknown_class(str(class_name), known)
        return class_name or known[0]
