"""What the global and the local part answer: the fusion network's input (paper, Figure 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from grad import ops
from grad.model.grids import GlobalPart, LocalPart
from grad.model.memory import MemoryPart
from grad.model.rows import to_rows
from grad.ops import Jitter


def look_up(
    global_: GlobalPart | MemoryPart | None,
    local: LocalPart | MemoryPart | None,
    features: Tensor,
    jitter: Jitter | None,
    jitter_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The normal values of all pixels, and what the lookups add to the training loss.

    Args:
        global_, local: the parts, at least one.
        features: (B, C, H, W).
        jitter, jitter_state: noise on the local coordinates, as in :func:`grad.ops.project`.

    Returns:
        (B*H*W, 2C) as [global, local], or (B*H*W, C) of the only part; scalar float32.
    """
    if isinstance(global_, GlobalPart) and isinstance(local, LocalPart):
        # One operator writes both into one matrix, so that nothing is concatenated.
        values = ops.lookup(
            global_.coords(features),
            global_.grid.values,
            local.hidden(to_rows(features)),
            local.coords.weight,
            local.coords.bias,
            local.grid.values,
            jitter=jitter,
            jitter_state=jitter_state,
        )
        return values, values.new_zeros((), dtype=torch.float32)
    parts = [part for part in (global_, local) if part is not None]
    answers, losses = zip(*[part(features, jitter, jitter_state) for part in parts], strict=True)
    return answers[0] if len(answers) == 1 else torch.cat(answers, dim=1), sum(
        losses[1:], losses[0]
    )
