"""From images to anomaly maps and scores: the one definition, and how to run it fast.

:class:`Pipeline` says what is computed. :class:`Engine` runs it on a device, in a precision, and
from as many threads as one likes.
"""

from __future__ import annotations

import copy
import threading
from typing import Literal

import torch
from torch import Tensor, nn

from grad.data.picture import as_floats
from grad.detector import onednn
from grad.detector.folding import fold_batch_norms
from grad.features.backbone import Backbone
from grad.model.grad import GRAD
from grad.model.grids import LocalPart
from grad.score.anomaly_map import map_and_score
from grad.system.devices import Precision, plain_defaults
from grad.system.errors import GradError

_GRAPH_RUNS = 3  # before a CUDA graph is captured, so that libraries have chosen their algorithms


class Pipeline(nn.Module):
    """Images to anomaly maps and image scores.

    Args:
        backbone: images to feature maps.
        model: feature maps to score maps.
        image_size: S, side of the square images, in pixels.
    """

    def __init__(self, backbone: Backbone, model: GRAD, image_size: int) -> None:
        super().__init__()
        self.backbone, self.model, self.image_size = backbone, model, image_size
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps and image scores.

        Args:
            images: (B, 3, S, S) floats in [0, 1].

        Returns:
            anomaly map, (B, S, S) float32; image score, (B,) float32.
        """
        return map_and_score(self.score_map(images), (self.image_size, self.image_size))

    def score_map(self, images: Tensor) -> Tensor:
        """How far each feature is from normal: (B, 3, S, S) -> (B, H, W) float32."""
        _, score = self.model.loss_and_score(self.backbone(images))
        return score


def optimise(pipeline: Pipeline, device: torch.device, precision: Precision) -> Pipeline:
    """A copy for inference on one device, which computes the same up to the precision's rounding.

    Batch norms are folded; on a CPU convolutions are oneDNN's, joined with their activations. In
    bfloat16 are the weights of backbone, local head and fusion network, and what flows between
    them; normalisation, coordinates, lookups' sums, refinement and scores are float32.

    Args:
        pipeline: on the CPU, in float32.
        device: where the copy goes.
        precision: of the copy.
    """
    settings, size = pipeline.model.settings, pipeline.image_size
    image = torch.zeros(1, 3, size, size)
    inputs = 2 * settings.rebuilt if settings.parts == "local+global" else settings.rebuilt
    values = torch.zeros(1, inputs, settings.height, settings.width)
    values = values.to(memory_format=torch.channels_last)
    backbone = fold_batch_norms(pipeline.backbone, image)
    on_cpu = device.type == "cpu" and onednn.is_available()
    if precision == "bfloat16":
        backbone.dtype = torch.bfloat16
        backbone.model.to(torch.bfloat16)
    backbone.model.to(memory_format=torch.channels_last)
    if on_cpu:
        backbone = onednn.fuse_convolutions(backbone, image)
    model = copy.deepcopy(pipeline.model).requires_grad_(False)
    for network in (model, *(model.branches.networks if model.branches else ())):
        assert isinstance(network, GRAD)
        network.fusion = fold_batch_norms(network.fusion, values)
        if precision == "bfloat16":
            if isinstance(network.local, LocalPart):
                network.local.hidden.to(torch.bfloat16)
            network.fusion = nn.Sequential(_ToBfloat16(), network.fusion.to(torch.bfloat16))
        network.fusion.to(memory_format=torch.channels_last)
        if on_cpu:
            network.fusion = onednn.fuse_convolutions(network.fusion, values)
    return Pipeline(backbone, model, size).to(device)


class Engine:
    """An optimised :class:`Pipeline`; all methods may be called from several threads at once.

    Results do not depend on the other images of a batch but for rounding, as a library may choose
    another algorithm for another batch size.

    Args:
        backbone, model: as :func:`grad.detector.checkpoint.load_checkpoint` gives them, on any
            device; they stay as they are.
        image_size: S, side of the square images, in pixels.
        device: where to run.
        precision: ``"auto"``: float32, in which thresholds are made.

    Raises:
        GradError: an unknown precision; weights that are not finite.

    Attributes:
        device, precision: what was chosen.
    """

    def __init__(
        self,
        backbone: Backbone,
        model: GRAD,
        image_size: int,
        *,
        device: torch.device,
        precision: Precision | Literal["auto"] = "auto",
    ) -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise GradError(f"--precision {precision} is none of auto, float32, bfloat16.")
        _check_weights(backbone, model)
        self.device = device
        self.precision: Precision = "float32" if precision == "auto" else precision
        self.image_size = image_size
        plain = Pipeline(copy.deepcopy(backbone).cpu(), copy.deepcopy(model).cpu(), image_size)
        with plain_defaults():
            self._pipeline = optimise(plain, device, self.precision)
        self._graphs: dict[int, _Graph] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, looked_at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Anomaly maps and image scores.

        Args:
            images: (B, 3, S, S), floats in [0, 1] or uint8, on any device.
            looked_at: (S, S) or (B, S, S) bool, regions of interest; None: all is looked at.

        Returns:
            anomaly map, (B, S, S) float32; image score, (B,) float32; both on the engine's device.
        """
        if looked_at is not None:
            size = (self.image_size, self.image_size)
            with torch.inference_mode():
                return map_and_score(self.score_map(images), size, looked_at.to(self.device))
        with torch.inference_mode(), self._without_autocast():
            images = self._prepared(images)
            graph = self._graphs.get(len(images))
            found: tuple[Tensor, Tensor] = (graph or self._pipeline)(images)
        return found

    def score_map(self, images: Tensor) -> Tensor:
        """How far each feature is from normal: (B, 3, S, S) as above -> (B, H, W) float32."""
        with torch.inference_mode(), self._without_autocast():
            return self._pipeline.score_map(self._prepared(images))

    def warm_up(self, batch_size: int = 1) -> None:
        """Prepare for batches of a size: the first one is then as fast as all others.

        On CUDA their whole work is captured as one graph, which makes small batches faster.
        """
        images = torch.zeros(batch_size, 3, self.image_size, self.image_size)
        with self._lock:
            if self.device.type == "cuda" and batch_size not in self._graphs:
                self._graphs[batch_size] = _Graph(self._pipeline, images.to(self.device))
        self(images)

    def _without_autocast(self) -> torch.autocast:
        """The pipeline has its precision, whatever the program around it asks for."""
        return torch.autocast(self.device.type, enabled=False)

    def _prepared(self, images: Tensor) -> Tensor:
        """On the device, float32, in channels_last memory."""
        side, shape = self.image_size, tuple(images.shape)
        if len(shape) != 4 or shape[1:] != (3, side, side):
            raise ValueError(f"images must be (B, 3, {side}, {side}), got {shape}")
        images = as_floats(images.to(self.device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last)


def _check_weights(*networks: nn.Module) -> None:
    """Activations fused with a convolution take NaN for zero, so that a score would not show it."""
    for network in networks:
        for name, values in network.state_dict().items():
            if values.is_floating_point() and not values.isfinite().all():
                raise GradError(
                    f"The model holds values that are not finite, in {name}: it is damaged or was "
                    "trained with too high a learning rate; copy or train it again."
                )


class _Graph:
    """A pipeline on batches of one size, recorded once and replayed by a single launch."""

    def __init__(self, pipeline: Pipeline, images: Tensor) -> None:
        self._lock = threading.Lock()
        self._device = images.device
        self._images = images.contiguous(memory_format=torch.channels_last)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_GRAPH_RUNS):
                    pipeline(self._images)
                with torch.cuda.graph(self._graph, stream=stream):
                    self._results = pipeline(self._images)
            torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The same as the pipeline's; done when it returns, as its buffers serve all threads."""
        with self._lock, torch.cuda.device(self._device):
            self._images.copy_(images)
            self._graph.replay()
            maps, scores = (result.clone() for result in self._results)
            torch.cuda.current_stream().synchronize()
        return maps, scores


class _ToBfloat16(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Any floating dtype -> bfloat16; memory stays where it is one already."""
        return x.to(torch.bfloat16)
