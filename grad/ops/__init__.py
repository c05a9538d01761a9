"""The operators, behind one door: compiled kernels, or plain PyTorch where GRAD_REFERENCE=1."""

from grad.ops.interpolate import interpolate
from grad.ops.jitter import Jitter, draw_state
from grad.ops.jitter_noise import jitter_noise
from grad.ops.lookup import lookup
from grad.ops.project import project
from grad.ops.refine import refine, refined_map

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
