"""A detector without a network for tests of the server, and pictures to send it."""

import copy
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grad.data.picture import as_floats
from grad.detector.checkpoint import ModelInfo, Origin
from grad.score.thresholds import Calibration, calibrate

SIZE = 24
CALIBRATION = calibrate(
    {"cookie": [1.0, 2.0, 3.0, 4.0], "pcb": [2.0, 3.0, 4.0, 5.0]},
    {"cookie": [2.0, 3.0, 4.0, 5.0], "pcb": [3.0, 4.0, 5.0, 6.0]},
    {"cookie": "held out", "pcb": "held out"},
    0.2,
)


class FakeDetector:
    """Scores by brightness: the map is 10 times the red channel, the score its mean."""

    def __init__(self, calibration: Calibration | None = CALIBRATION, classes=("cookie", "pcb")):
        self.classes = classes
        self.image_size = SIZE
        self.calibration = calibration
        self.device = torch.device("cpu")
        self.origin = Origin("fake", "0123456789ab")
        self.info = ModelInfo("none", (0,), "", SIZE, (0.0,) * 3, (1.0,) * 3, classes, 1)
        self.batches: list[int] = []
        self.names: list[Sequence[str | None] | None] = []
        self.broken = False
        self.factor = 10.0
        self.go_on = threading.Event()
        self.go_on.set()

    def warm_up(self, batch_size: int = 1) -> None:
        self.score_batch(torch.zeros(batch_size, 3, SIZE, SIZE))

    def with_calibration(self, calibration, origin=None) -> "FakeDetector":
        changed = copy.copy(self)
        changed.calibration, changed.origin = calibration, origin or self.origin
        return changed

    def score_batch(
        self, images: Tensor, class_names: Sequence[str | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        assert images.shape[1:] == (3, SIZE, SIZE)
        self.go_on.wait(10)
        if self.broken:
            raise RuntimeError("out of memory")
        self.batches.append(len(images))
        self.names.append(class_names)
        images = as_floats(images)
        maps = self.factor * images[:, 0]
        return maps, maps.mean(dim=(1, 2))


def grey(value: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """A picture whose score is 10 * value / 255."""
    return Image.new("L", size, value)


def spot(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Dark, with a bright square in its upper left corner."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 4, : size[0] // 4] = 255
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


@contextmanager
def served(detector, teach=lambda inspector: None, **settings) -> Iterator[str]:
    """The address of a server in a thread of its own; of several detectors, by name.

    ``teach`` makes the :class:`Teaching` of an inspector.
    """
    import uvicorn

    from grad.serve.app import create_app
    from grad.serve.inspector import Inspector
    from grad.serve.server import bind, configure, url
    from grad.serve.settings import ServeSettings
    from grad.serve.site import create_site

    chosen = ServeSettings(port=0, **settings)
    with bind(chosen) as listener:

        def app_of(one):
            inspector = Inspector(one, chosen)
            return create_app(inspector, teach(inspector))

        if isinstance(detector, dict):
            app = create_site({name: app_of(one) for name, one in detector.items()}, chosen)
        else:
            app = app_of(detector)
        server = uvicorn.Server(configure(app, chosen))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield url(listener)
        finally:
            server.should_exit = True
            thread.join()
