"""Multi-head self-attention: global, in windows, and with keys of a reduced map.

All three have the same parameters, so weights of one load into the others: a backbone that was
pre-trained with global attention on 224x224 images can be fine-tuned on large ones with a cheaper
form.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import build_activation
from ..registry import TOKEN_MIXERS
from . import windows


@TOKEN_MIXERS.register_module(name=["attention", "Attention"])
class Attention(BaseModule):
    """Global self-attention (`Attention Is All You Need <https://arxiv.org/abs/1706.03762>`_)
    over the positions of a map.

    With the softmax it runs as torch's ``scaled_dot_product_attention``, which never stores the
    attention weights; :meth:`coefficients` computes them.

    Args:
        dim: Number of channels C.
        head_dim: Channels of one head; C must be a multiple of it.
        qkv_bias: Whether queries, keys and values have a bias.
        proj_bias: Whether the output projection has a bias.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output.
        coefficient_act_cfg: Activation of the scaled scores in place of the softmax over the keys,
            for instance ``'GELU'``. It stores scores and coefficients, (B, heads, N, M).
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
        coefficient_act_cfg: dict | None = None,
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
        self.uses_softmax = coefficient_act_cfg is None
        self.act = (
            nn.Softmax(dim=-1) if self.uses_softmax else build_activation(coefficient_act_cfg)
        )
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(self.qkv(self.to_tokens(x)), x)

    def attend(self, qkv: Tensor, x: Tensor) -> Tensor:
        """The output (B, C, H, W) for projected tokens (B, N, 3C) of a map ``x``, of which only
        the shape counts."""
        q, k, v = self.split_heads(qkv, x)
        dropout = self.attn_drop if self.training else 0.0
        if self.uses_softmax:
            out = F.scaled_dot_product_attention(q, k, v, self.mask(x), dropout)
        else:
            out = F.dropout(self._activate(self._match(q, k, x), x), dropout, self.training) @ v
        return self._project(out, x)

    # What the forms of attention differ in.

    def to_tokens(self, x: Tensor) -> Tensor:
        """The positions of a map (B, C, H, W) as tokens (B, N, C)."""
        return x.flatten(2).transpose(1, 2)

    def to_map(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Tokens (B, N, K) as a map (B, K, H, W) of the size of ``x``."""
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])

    def split_heads(self, qkv: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, heads, N, head_dim), keys and values (B, heads, M, head_dim)."""
        q, k, v = qkv.chunk(3, dim=-1)
        return self._heads(q), self._heads(k), self._heads(v)

    def mask(self, x: Tensor) -> Tensor | None:
        """Which keys count, (B, 1, 1, M); None for all."""
        return None

    # Query, key, activation and value, as a MetaMixer has them.

    def scores(self, x: Tensor) -> Tensor:
        """Scaled products of queries and keys, (B, heads, N, M)."""
        q, k, _ = self.split_heads(self.qkv(self.to_tokens(x)), x)
        return self._match(q, k, x)

    def coefficients(self, x: Tensor) -> Tensor:
        """The activated scores, (B, heads, N, M); 0 for positions that do not count."""
        return self._activate(self.scores(x), x)

    def aggregate(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """Values weighted by the coefficients, (B, C, H, W)."""
        _, _, v = self.split_heads(self.qkv(self.to_tokens(x)), x)
        return self._project(coefficients @ v, x)

    def as_maps(self, values: Tensor, x: Tensor) -> Tensor:
        """(B, heads, N, M) as one map for each key of each head, (B, heads * M, H, W)."""
        return self.to_map(values.transpose(1, 2).flatten(2), x)

    def coefficient_maps(self, x: Tensor) -> Tensor:
        """The coefficients of each key at each position, (B, heads * M, H, W)."""
        return self.as_maps(self.coefficients(x), x)

    def num_keys(self, x: Tensor) -> int:
        """Number of the maps of an input (B, C, H, W): heads times keys."""
        return x.shape[1] // self.head_dim * self._keys_per_head(x)

    def key_name(self, key: int, x: Tensor) -> str:
        """What to call one of the keys."""
        head, position = divmod(key, self._keys_per_head(x))
        return f"head {head}, key {position}"

    def _keys_per_head(self, x: Tensor) -> int:
        return self.to_tokens(x[:1, :1]).shape[1]

    def _match(self, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        # Scaled before the product, which would leave the range of float16.
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        return masked_fill(scores, self.mask(x), -torch.inf)

    def _activate(self, scores: Tensor, x: Tensor) -> Tensor:
        # An activation of minus infinity may be anything.
        return masked_fill(self.act(scores), self.mask(x), 0.0)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (-1, self.head_dim)).transpose(1, 2)

    def _project(self, heads: Tensor, x: Tensor) -> Tensor:
        tokens = self.proj_drop(self.proj(heads.transpose(1, 2).flatten(2)))
        return self.to_map(tokens, x)

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}"


def masked_fill(x: Tensor, mask: Tensor | None, value: float) -> Tensor:
    """A value in the place of what a mask leaves out; None leaves nothing out."""
    return x if mask is None else x.masked_fill(mask.logical_not(), value)


# One step for torch.fx: whether there is a mask depends on the size of the map.
torch.fx.wrap("masked_fill")


@TOKEN_MIXERS.register_module(name=["window_attention", "WindowAttention"])
class WindowAttention(Attention):
    """Self-attention within windows that do not overlap: linear cost in the number of pixels.

    Maps are padded to whole windows; padding is masked and never attended to. Key k of
    :meth:`coefficient_maps` is position k of each window.

    Args:
        dim: Number of channels C.
        window_size: Side of the square windows. A map no larger than one is a single window, and
            the mixer is then global attention.
        **kwargs: As for :class:`Attention`.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int, window_size: int = 14, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f"window_size must be a positive integer, got {window_size!r}")
        self.window_size = window_size

    def to_tokens(self, x: Tensor) -> Tensor:
        rows, columns = windows.window_size(x, self.window_size)
        return windows.to_windows(x, rows, columns).transpose(1, 2)

    def to_map(self, tokens: Tensor, x: Tensor) -> Tensor:
        rows, columns = windows.window_size(x, self.window_size)
        return windows.from_windows(tokens.transpose(1, 2), rows, columns, x)

    def mask(self, x: Tensor) -> Tensor | None:
        rows, columns = windows.window_size(x, self.window_size)
        return windows.valid_keys(x, rows, columns)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, window_size={self.window_size}"


@TOKEN_MIXERS.register_module(name=["sr_attention", "SpatialReductionAttention"])
class SpatialReductionAttention(Attention):
    """Self-attention whose keys and values are averaged over squares (spatial reduction as in
    `PVT <https://arxiv.org/abs/2102.12122>`_, by averaging): every position sees the whole image,
    at ``1 / sr_ratio²`` of the cost of the products. There is no parameter beyond those of global
    attention, which it equals at ratio 1.

    The average is taken behind the projection, which is linear: that is the projection of the
    averaged map.

    Args:
        dim: Number of channels C.
        sr_ratio: Side of the squares that are averaged into one key and one value.
        **kwargs: As for :class:`Attention`.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int, sr_ratio: int = 2, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        if not isinstance(sr_ratio, int) or sr_ratio < 1:
            raise ValueError(f"sr_ratio must be a positive integer, got {sr_ratio!r}")
        self.sr_ratio = sr_ratio

    def split_heads(self, qkv: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.chunk(3, dim=-1)
        return self._heads(q), self._heads(self._reduce(k, x)), self._heads(self._reduce(v, x))

    def _reduce(self, tokens: Tensor, x: Tensor) -> Tensor:
        # Incomplete squares at the border are averaged over the pixels they have.
        maps = self.to_map(tokens, x)
        reduced = F.avg_pool2d(maps, self.sr_ratio, self.sr_ratio, ceil_mode=True)
        return self.to_tokens(reduced)

    def _keys_per_head(self, x: Tensor) -> int:
        rows, columns = x.shape[2], x.shape[3]
        return -(-rows // self.sr_ratio) * -(-columns // self.sr_ratio)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sr_ratio={self.sr_ratio}"
