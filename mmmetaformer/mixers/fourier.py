"""Mixing by a Fourier transform."""

import torch
from torch import Tensor, nn

from ..registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module(name=["fourier", "Fourier"])
class Fourier(nn.Module):
    """The real part of the discrete Fourier transform over positions and channels (`FNet
    <https://arxiv.org/abs/2105.03824>`_), with both axes of the image in place of FNet's
    sequence. It has no parameters and serves every size.

    Args:
        dim: Number of channels C; unused, part of the contract.
        norm: Scaling of the transform, as in ``torch.fft.fftn``. FNet's is ``'backward'``, none at
            all; the default ``'ortho'`` keeps the magnitude of the output the same for every
            image size.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: For an unknown scaling.
    """

    def __init__(self, dim: int, norm: str = "ortho") -> None:
        super().__init__()
        if norm not in ("ortho", "backward", "forward"):
            raise ValueError(f"norm must be 'ortho', 'backward' or 'forward', got {norm!r}")
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        # There is no transform of bfloat16, and of float16 only for sizes that are powers of two.
        full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return torch.fft.fftn(full, dim=(1, 2, 3), norm=self.norm).real.to(x.dtype)

    def extra_repr(self) -> str:
        return f"norm={self.norm!r}"
