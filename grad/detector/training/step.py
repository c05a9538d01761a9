"""One step of training: loss, gradient, update; alike in one process, in several, and compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from grad.detector.training.batch_norm import synchronized
from grad.model.grad import GRAD
from grad.ops import draw_state
from grad.system import distributed
from grad.system.errors import GradError, first_line


class TrainingStep:
    """Calls that each train a model on one batch. Nothing in them waits for the device.

    Several processes have a part of the batch each. What they do together is what one process would
    do with the whole batch: the loss of each counts as much as it has images, batch statistics are
    joint (unless ``sync_batch_norm`` is off), the noise of a pixel is that of its place in the
    whole batch.

    Args:
        model: in training mode, on its device.
        optimizer: of the model's parameters.
        clip: largest norm of the gradient of all parameters together.
        autocast: whether network and heads compute in bfloat16; sums, norms and the loss are
            float32 either way.
        sync_batch_norm: see above.
        compiled_for: images of a batch (all processes') for which the network is compiled; others,
            as the last of an epoch, run as they are. None: no compiling.
    """

    def __init__(
        self,
        model: GRAD,
        optimizer: Optimizer,
        *,
        clip: float,
        autocast: bool = False,
        sync_batch_norm: bool = True,
        compiled_for: int | None = None,
    ) -> None:
        self._model, self._optimizer, self._clip = model, optimizer, clip
        self._device = next(model.parameters()).device
        self._autocast = autocast
        self._joint_statistics = sync_batch_norm or distributed.size() == 1
        part = None if compiled_for is None else len(distributed.shard(range(compiled_for)))
        self._loss: nn.Module = _Loss(model, part)
        if distributed.size() > 1:
            if sync_batch_norm:
                synchronized(model)
            parallel = DistributedDataParallel(self._loss, gradient_as_bucket_view=True)
            parallel.broadcast_buffers = False  # an argument of another name in newer torch
            self._loss = parallel

    def __call__(self, images: Tensor, count: int) -> Tensor:
        """Train on one batch.

        Args:
            images: (B, C, H, W), this process's part (:func:`grad.system.distributed.shard`) of the
                batch; B may be 0 among several processes.
            count: images of the whole batch.

        Returns:
            The mean loss of the whole batch, scalar float32 on the device.
        """
        share = len(images) / count
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            loss = self._loss(images, *self._jitter_state(images, count))
        self._optimizer.zero_grad(set_to_none=True)
        (loss * (share * distributed.size())).backward()  # gradients are averaged over processes
        nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        return distributed.sum_(loss.detach() * share if share else loss.new_zeros(()))

    def finish_epoch(self) -> None:
        """Where each process has its own batch statistics, make the running ones their mean."""
        if not self._joint_statistics:
            for buffer in self._model.buffers():
                if buffer.is_floating_point():
                    distributed.sum_(buffer).div_(distributed.size())

    def _jitter_state(self, images: Tensor, count: int) -> tuple[Tensor, ...]:
        """What the noise of this part of the batch comes from; nothing: the model draws it."""
        if distributed.size() == 1 or self._model.jitter is None:
            return ()
        first = distributed.shard_start(count) * images.shape[2] * images.shape[3]
        place = torch.full((1,), first, dtype=torch.int64, device=self._device)
        return (torch.cat([draw_state(self._device), place]),)


class _Loss(nn.Module):
    """The model's loss as a module of its own, as torch's DistributedDataParallel wants it."""

    def __init__(self, model: GRAD, compiled_for: int | None) -> None:
        super().__init__()
        self.model = model
        self._compiled_for = compiled_for
        self._compiled: Callable[..., tuple[Tensor, Tensor]] | None = None
        if compiled_for is not None:
            self._compiled = torch.compile(model.loss_and_score, dynamic=False)

    def forward(self, images: Tensor, *jitter_state: Tensor) -> Tensor:
        """(B, C, H, W) -> scalar float32."""
        if self._compiled is None or len(images) != self._compiled_for:
            return self.model.loss_and_score(images, *jitter_state)[0]
        try:
            return self._compiled(images, *jitter_state)[0]
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = first_line(error)
            raise GradError(f"--compile does not work here ({reason}): leave it out.") from error
