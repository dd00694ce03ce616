"""Where the Triton kernels can run."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

# The kernels keep tensors in tuples, and were compiled with no earlier version.
MIN_TRITON = (3, 6)
MIN_CUDA_CAPABILITY = (8, 0)  # bfloat16
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Offsets within an image are 32-bit numbers, and a window reaches a little beyond the image.
MAX_IMAGE_ELEMENTS = 2**31 - 2**24

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < MIN_TRITON:
    raise ImportError(
        f"triton is {triton.__version__}, and {'.'.join(map(str, MIN_TRITON))} or later is needed"
    )

# Whether the kernels are interpreted on the CPU; settled when they are decorated, right after this.
INTERPRETED = triton.knobs.runtime.interpret


def unavailable_reason(x: Tensor) -> str | None:
    """Why the kernels cannot work on a map, or None where they can.

    Args:
        x: A map (B, C, H, W); B may be 0.
    """
    if x.dtype not in DTYPES:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        return f"the map is {str(x.dtype).removeprefix('torch.')} and none of {allowed}"
    if x.ndim != 4 or 0 in x.shape[1:]:
        return f"the map is of shape {tuple(x.shape)} and not (B, C, H, W) with images of any size"
    if x.shape[1:].numel() > MAX_IMAGE_ELEMENTS:
        return f"an image of shape {tuple(x.shape[1:])} has over {MAX_IMAGE_ELEMENTS} elements"
    if x.device.type == "cuda":
        capability = torch.cuda.get_device_capability(x.device)
        if torch.version.hip is None and capability < MIN_CUDA_CAPABILITY:
            return f"the GPU's compute capability is {capability}, below {MIN_CUDA_CAPABILITY}"
        return None
    if x.device.type == "cpu" and INTERPRETED:
        return None
    return (
        f"the map is on {x.device} and not on a GPU (for tests, TRITON_INTERPRET=1, set before "
        "Python starts, interprets the kernels on the CPU)"
    )


def available(x: Tensor) -> bool:
    """Whether the kernels can work on a map (B, C, H, W)."""
    return unavailable_reason(x) is None


def require(x: Tensor) -> None:
    """Raise where the kernels cannot work on a map (B, C, H, W).

    Raises:
        ValueError: Says why.
    """
    reason = unavailable_reason(x)
    if reason is not None:
        raise ValueError(
            f"the Triton kernels were asked for, but {reason}: use fused='auto', which needs none"
        )
