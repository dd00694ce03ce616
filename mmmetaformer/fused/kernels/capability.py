"""Where the Triton kernels can run."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType

import torch
from torch import Tensor

# The kernels keep tensors in tuples, and were compiled with no earlier version.
MIN_TRITON = (3, 6)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Offsets within an image are 32-bit numbers; a window may reach a little beyond it.
MAX_IMAGE_ELEMENTS = 2**31 - 2**24


def _package_problem() -> str | None:
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "triton is not installed; the CUDA builds of torch for Linux come with it"
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_TRITON:
        return f"triton is {version}, and {'.'.join(map(str, MIN_TRITON))} or later is needed"
    return None


def unavailable_reason(x: Tensor) -> str | None:
    """Why the kernels cannot work on a map, or None where they can.

    Args:
        x: A map (B, C, H, W).
    """
    if x.dtype not in DTYPES:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        return f"dtype {x.dtype} is none of {allowed}"
    if x.ndim != 4 or 0 in x.shape[1:]:
        return f"shape {tuple(x.shape)} is no (B, C, H, W) with at least one value an image"
    if x.shape[1:].numel() > MAX_IMAGE_ELEMENTS:
        return f"an image of shape {tuple(x.shape[1:])} has over {MAX_IMAGE_ELEMENTS} elements"
    problem = _package_problem()
    if problem is not None:
        return problem
    if x.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(x.device)
        if torch.version.hip is None and major < 8:
            return f"the GPU has compute capability {major}.{minor}, and 8.0 or later is needed"
        return None
    if x.device.type == "cpu" and ops().INTERPRETED:
        return None
    return (
        f"the tensor is on {x.device}: move it to a GPU, or set TRITON_INTERPRET=1 before Python "
        "starts to interpret the kernels on the CPU (slow, for tests)"
    )


def available(x: Tensor) -> bool:
    """Whether the kernels can work on a map (B, C, H, W)."""
    return unavailable_reason(x) is None


def require(x: Tensor) -> None:
    """Raise where the kernels cannot work on a map (B, C, H, W).

    Raises:
        ValueError: Says why, and what to use instead.
    """
    reason = unavailable_reason(x)
    if reason is not None:
        raise ValueError(
            f"the Triton kernels were asked for, but {reason}. The implementation 'torch' has no "
            "such limit"
        )


def ops() -> ModuleType:
    """The functions of the kernels; imports Triton."""
    return importlib.import_module(".ops", __package__)
