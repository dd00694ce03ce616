"""Multi-head self-attention: global, in windows, and with keys of a reduced map.

All three have the same parameters, so weights of one load into the others: a backbone that was
pre-trained with global attention on 224x224 images can be fine-tuned on large ones with a cheaper
form.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import build_activation
from ..metamixer import MetaMixer
from ..registry import TOKEN_MIXERS
from .windows import from_windows, to_windows


@TOKEN_MIXERS.register_module(name=["attention", "Attention"])
class Attention(MetaMixer):
    """Global self-attention (`Attention Is All You Need <https://arxiv.org/abs/1706.03762>`_)
    over the positions of a map: the MetaMixer whose keys and values come from the image.

    With the softmax it runs as torch's ``scaled_dot_product_attention``, which never stores the
    coefficients; :meth:`coefficients` computes them.

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
        self._uses_softmax = coefficient_act_cfg is None
        self.act = (
            nn.Softmax(dim=-1) if self._uses_softmax else build_activation(coefficient_act_cfg)
        )
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    # What the forms of attention differ in.

    def queried(self, x: Tensor) -> Tensor:
        """The positions that ask, (B, N, C)."""
        return x.flatten(2).transpose(1, 2)

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The positions that answer, (B, M, C), and which of them count, (B, M); None for all."""
        return self.queried(x), None

    def to_map(self, tokens: Tensor, x: Tensor) -> Tensor:
        """What the positions that asked get, (B, N, K), as a map (B, K, H, W) as large as x."""
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])

    # The parts of a MetaMixer.

    def query(self, x: Tensor) -> Tensor:
        """(B, heads, N, head_dim)."""
        return self._heads(self._linear(self.queried(x), 0))

    def match(self, queries: Tensor, x: Tensor) -> Tensor:
        """Scaled products with the keys, (B, heads, N, M)."""
        tokens, valid = self.attended(x)
        return self._match(queries, self._heads(self._linear(tokens, 1)), valid)

    def _match(self, queries: Tensor, keys: Tensor, valid: Tensor | None) -> Tensor:
        # Scaled before the product, which would leave the range of float16.
        scores = (queries * self.head_dim**-0.5) @ keys.transpose(-2, -1)
        return scores if valid is None else scores.masked_fill(~_of_keys(valid), -torch.inf)

    def coefficients(self, x: Tensor) -> Tensor:
        """The activated scores, (B, heads, N, M); 0 for positions that do not count."""
        return self._activate(self.scores(x), self.attended(x)[1])

    def _activate(self, scores: Tensor, valid: Tensor | None) -> Tensor:
        coefficients = self.act(scores)
        # An activation of minus infinity may be anything.
        return coefficients if valid is None else coefficients.masked_fill(~_of_keys(valid), 0.0)

    def aggregate(self, coefficients: Tensor, x: Tensor) -> Tensor:
        tokens, _ = self.attended(x)
        values = self._heads(self._linear(tokens, 2))
        coefficients = F.dropout(coefficients, self.attn_drop, self.training)
        return self._project(coefficients @ values, x)

    def as_maps(self, values: Tensor, x: Tensor) -> Tensor:
        """(B, heads, N, M) as one map for each key of each head, (B, heads * M, H, W)."""
        return self.to_map(values.transpose(1, 2).flatten(2), x)

    def num_keys(self, x: Tensor) -> int:
        return x.shape[1] // self.head_dim * self.attended(x)[0].shape[1]

    def key_name(self, key: int, x: Tensor) -> str:
        head, position = divmod(key, self.attended(x)[0].shape[1])
        return f"head {head}, key {position}"

    def forward(self, x: Tensor) -> Tensor:
        # The parts above, with queries, keys and values of one projection.
        return self.attend(*self.project(x), x)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, x: Tensor) -> Tensor:
        """The output for what :meth:`project` gives of ``x``, of which only the shape counts."""
        q, k, v = (self._heads(part) for part in (q, k, v))
        if self._uses_softmax:
            out = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None if valid is None else _of_keys(valid),
                dropout_p=self.attn_drop if self.training else 0.0,
            )
        else:
            coefficients = self._activate(self._match(q, k, valid), valid)
            out = F.dropout(coefficients, self.attn_drop, self.training) @ v
        return self._project(out, x)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values, (B, N or M, C), and which of the keys count."""
        tokens, valid = self.attended(x)
        return *self.qkv(tokens).chunk(3, dim=-1), valid

    def _linear(self, tokens: Tensor, part: int) -> Tensor:
        """One third of ``qkv``: queries 0, keys 1, values 2."""
        weight, bias = self.qkv.weight.chunk(3)[part], self.qkv.bias
        return F.linear(tokens, weight, None if bias is None else bias.chunk(3)[part])

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (-1, self.head_dim)).transpose(1, 2)

    def _project(self, heads: Tensor, x: Tensor) -> Tensor:
        tokens = self.proj_drop(self.proj(heads.transpose(1, 2).flatten(2)))
        return self.to_map(tokens, x)

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}"


def _of_keys(valid: Tensor) -> Tensor:
    """(B, M) as (B, 1, 1, M)."""
    return valid[:, None, None, :]


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

    def __init__(self, dim: int, window_size: int = 14, **kwargs) -> None:
        super().__init__(dim, **kwargs)
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f"window_size must be a positive integer, got {window_size!r}")
        self.window_size = window_size

    def queried(self, x: Tensor) -> Tensor:
        return self.attended(x)[0]

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        windows, valid = to_windows(x, self._window(x))
        return windows.transpose(1, 2), valid

    def to_map(self, tokens: Tensor, x: Tensor) -> Tensor:
        return from_windows(tokens.transpose(1, 2), self._window(x), tuple(x.shape[2:]))

    def _window(self, x: Tensor) -> tuple[int, int]:
        return min(self.window_size, x.shape[2]), min(self.window_size, x.shape[3])

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

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        # Incomplete squares at the border are averaged over the pixels they have.
        reduced = F.avg_pool2d(x, self.sr_ratio, self.sr_ratio, ceil_mode=True)
        return reduced.flatten(2).transpose(1, 2), None

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        tokens, _ = self.attended(x)
        keys, values = (self._linear(tokens, part) for part in (1, 2))
        return self._linear(self.queried(x), 0), keys, values, None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sr_ratio={self.sr_ratio}"
