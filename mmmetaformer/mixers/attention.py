"""Multi-head self-attention: global, in windows, and with keys of a reduced map.

All three have the same parameters, so weights of one load into the others: a backbone that was
pre-trained with global attention on 224x224 images can be fine-tuned on large ones with a cheaper
form.
"""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import TOKEN_MIXERS
from .windows import from_windows, to_windows


@TOKEN_MIXERS.register_module(name=["attention", "Attention"])
class Attention(BaseModule):
    """Global self-attention (`Attention Is All You Need <https://arxiv.org/abs/1706.03762>`_)
    over the positions of a map, by torch's ``scaled_dot_product_attention``.

    Args:
        dim: Number of channels C.
        head_dim: Channels of one head; C must be a multiple of it.
        qkv_bias: Whether queries, keys and values have a bias.
        proj_bias: Whether the output projection has a bias.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output.
        init_cfg: Initialisation; the default is the published one, a normal distribution with
            standard deviation 0.02.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ValueError: If ``dim`` is not a multiple of ``head_dim``.
    """

    def __init__(
        self,
        dim: int,
        head_dim: int = 32,
        qkv_bias: bool = False,
        proj_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type="TruncNormal", layer="Linear", std=0.02))
        if not isinstance(head_dim, int) or head_dim < 1 or dim % head_dim:
            divisors = [n for n in range(min(8, dim), dim + 1) if dim % n == 0][:8]
            raise ValueError(
                f"dim={dim} is not a multiple of head_dim={head_dim!r}: choose a head_dim that "
                f"divides it, for instance one of {divisors}"
            )
        self.head_dim = head_dim
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        return self.attend(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries (B, N, C) against keys and values (B, M, C), then the output projection.

        ``mask`` (B, M) is True for the keys that count.
        """
        q, k, v = (part.unflatten(2, (-1, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.attn_drop if self.training else 0.0,
        )
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}"


@TOKEN_MIXERS.register_module(name=["window_attention", "WindowAttention"])
class WindowAttention(Attention):
    """Self-attention within windows that do not overlap: linear cost in the number of pixels.

    Maps are padded to whole windows; padding is masked and never attended to.

    Args:
        dim: Number of channels C.
        window_size: Side of the square windows. A map no larger than one is a single window, and
            the mixer is then global attention.
        **kwargs: As for :class:`Attention`.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int, window_size: int = 14, **kwargs) -> None:
        super().__init__(dim, **kwargs)
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f"window_size must be a positive integer, got {window_size!r}")
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        window = (min(self.window_size, size[0]), min(self.window_size, size[1]))
        windows, valid = to_windows(x, window)
        q, k, v = self.qkv(windows.transpose(1, 2)).chunk(3, dim=-1)
        out = self.attend(q, k, v, valid)
        return from_windows(out.transpose(1, 2), window, size)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, window_size={self.window_size}"


@TOKEN_MIXERS.register_module(name=["sr_attention", "SpatialReductionAttention"])
class SpatialReductionAttention(Attention):
    """Self-attention whose keys and values come from an averaged map (spatial reduction as in
    `PVT <https://arxiv.org/abs/2102.12122>`_, by averaging): every position sees the whole image,
    at ``1 / sr_ratio²`` of the cost. There is no parameter beyond those of global
    attention, which it equals at ratio 1.

    Args:
        dim: Number of channels C.
        sr_ratio: Side of the squares that are averaged into one key and one value.
        **kwargs: As for :class:`Attention`.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int, sr_ratio: int = 2, **kwargs) -> None:
        super().__init__(dim, **kwargs)
        if not isinstance(sr_ratio, int) or sr_ratio < 1:
            raise ValueError(f"sr_ratio must be a positive integer, got {sr_ratio!r}")
        self.sr_ratio = sr_ratio

    def forward(self, x: Tensor) -> Tensor:
        dim = x.shape[1]
        # Incomplete squares at the border are averaged over the pixels they have.
        reduced = F.avg_pool2d(x, self.sr_ratio, self.sr_ratio, ceil_mode=True)
        tokens, reduced = (part.flatten(2).transpose(1, 2) for part in (x, reduced))
        weight, bias = self.qkv.weight, self.qkv.bias
        q_bias, kv_bias = (None, None) if bias is None else (bias[:dim], bias[dim:])
        q = F.linear(tokens, weight[:dim], q_bias)
        k, v = F.linear(reduced, weight[dim:], kv_bias).chunk(2, dim=-1)
        return self.attend(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sr_ratio={self.sr_ratio}"
