"""The operators, behind one door: compiled kernels, or plain PyTorch where GRAD_REFERENCE=1."""

from grad.ops.functions import interpolate, jitter_noise, lookup, project, refine, refined_map
from grad.ops.jitter import Jitter, draw_state

__all__ = [
    "Jitter",
    "draw_state",
    "interpolate",
    "jitter_noise",
    "lookup",
    "project",
    "refine",
    "refined_map",
]
