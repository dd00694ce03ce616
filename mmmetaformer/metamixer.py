"""MetaMixer: what self-attention and a feed-forward network have in common."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from .layers import build_activation
from .registry import CHANNEL_MIXERS, MODELS, TOKEN_MIXERS, as_cfg, build_part, with_defaults

_GELU = dict(type="GELU")
_NORMAL = dict(type="TruncNormal", layer="Conv2d", std=0.02)


class MetaMixer(BaseModule):
    """The abstraction of `MetaMixer Is All You Need <https://arxiv.org/abs/2406.02021>`_: queries
    are compared with keys, the scores are activated to coefficients, and the coefficients weight
    values.

    ====================  ==================  ==========================  ==========  ============
    instance              query               key                         act         value
    ====================  ==================  ==========================  ==========  ============
    ``Attention``         linear              a linear map of each pixel  softmax     likewise
    ``FFNifiedAttention`` 1x1 convolution     depthwise kernels           GELU        depthwise
    ``ConvNeXt``          depthwise           1x1 kernels                 GELU        1x1 kernels
    ``Mlp``               the input           1x1 kernels                 GELU        1x1 kernels
    ``SepConv``           the input           1x1 kernels                 StarReLU    separable
    ``StaticMetaMixer``   any                 any                         any         any
    ====================  ==================  ==========================  ==========  ============

    In all but the first, keys and values are weights: such a mixer is four modules, ``query``,
    ``key``, ``act`` and ``value``. :func:`as_metamixer` shows any mixer in this form.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    shown: str | None = None  # the class of the mixer that as_metamixer shows
    query: nn.Module
    key: nn.Module
    act: nn.Module
    value: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.act(self.key(self.query(x))))

    def scores(self, x: Tensor) -> Tensor:
        """What is activated: (B, K, H, W) with K static keys."""
        return self.key(self.query(x))

    def coefficients(self, x: Tensor) -> Tensor:
        """The activated scores, of the shape of the scores."""
        return self.act(self.scores(x))

    def aggregate(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """Values weighted by the coefficients, (B, C, H, W); attention takes the values from the
        input ``x``."""
        return self.value(coefficients)

    def as_maps(self, values: Tensor, x: Tensor) -> Tensor:
        """Scores or coefficients of an input ``x`` as one map for each key, (B, K, H, W)."""
        return values

    def coefficient_maps(self, x: Tensor) -> Tensor:
        """The coefficients of each key at each position, (B, K, H, W)."""
        return self.as_maps(self.coefficients(x), x)

    def num_keys(self, x: Tensor) -> int:
        """The K of the maps of an input (B, C, H, W), found at a single position."""
        return self.scores(x[:1, :, :1, :1]).shape[1]

    def key_name(self, key: int, x: Tensor) -> str:
        """What to call one of the K keys."""
        return f"key {key}"


# By class: the submodules that are query, key, activation and value.
_PARTS: dict[str, tuple[tuple[str, ...], str, str, tuple[str, ...]]] = {
    "Mlp": ((), "fc1", "act", ("fc2",)),
    "ConvNeXt": (("conv",), "fc1", "act", ("fc2",)),
    "Pointwise": ((), "conv", "act", ("norm",)),
    "SepConv": ((), "pwconv1", "act1", ("dwconv", "pwconv2")),
    "DepthwiseActNorm": ((), "conv", "act", ("norm",)),
}


def as_metamixer(mixer: nn.Module) -> Any | None:
    """A token or channel mixer of this package as query, key, activation and value.

    That is a :class:`MetaMixer` of the mixer's own submodules, or the mixer itself if it has these
    methods, as attention has; None for a mixer without keys, such as pooling.
    """
    if hasattr(mixer, "coefficient_maps"):
        return mixer
    for cls in type(mixer).__mro__:
        if cls.__module__.startswith(f"{__package__}.") and cls.__name__ in _PARTS:
            query, key, act, value = _PARTS[cls.__name__]
            view = MetaMixer()
            view.shown = type(mixer).__name__
            view.query = nn.Sequential(*(getattr(mixer, name) for name in query))
            view.key, view.act = getattr(mixer, key), getattr(mixer, act)
            view.value = nn.Sequential(*(getattr(mixer, name) for name in value))
            return view
    return None


@TOKEN_MIXERS.register_module(name=["metamixer", "StaticMetaMixer"])
@CHANNEL_MIXERS.register_module(name=["metamixer", "StaticMetaMixer"])
class StaticMetaMixer(MetaMixer):
    """A MetaMixer of which each part is a config::

        token_mixers=dict(
            type='metamixer',
            query=dict(type='Conv', kernel_size=1),
            key=dict(type='DepthwiseConv2d', kernel_size=5),
            act_cfg='ReLU',
            value=dict(type='DepthwiseRepConv', kernel_size=7))

    Args:
        dim: Number of channels C.
        query: Config of a map from C to C channels; None takes the input as it is.
        key: Config of the convolution with the keys, from C to ``int(ratio * C)`` channels.
        value: Config of the convolution with the values, back to C channels.
        act_cfg: Activation of the coefficients; None means none.
        norm_cfg: Norm of those parts that take a ``norm_cfg`` and name none; None leaves them
            their own.
        init_cfg: Initialisation; the default is a normal distribution with deviation 0.02.

    A part is any module of OpenMMLab or of this package, a class, or its dotted path, that is
    built as ``Part(in_channels=..., out_channels=..., **options)`` and keeps the size of the map.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        dim: int,
        query: Any,
        key: Any,
        value: Any,
        ratio: float = 1.0,
        act_cfg: dict | None = _GELU,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or _NORMAL)
        keys = int(dim * ratio)

        def build(name: str, cfg: Any, in_channels: int, out_channels: int) -> nn.Module:
            cfg = as_cfg(name, cfg)
            if cfg is None:
                raise TypeError(f"{name} must be a name or a dict with the key 'type', got None")
            if norm_cfg is not None:
                cfg = with_defaults(MODELS, cfg, dict(norm_cfg=norm_cfg))
            sides = dict(in_channels=in_channels, out_channels=out_channels)
            try:
                return build_part(MODELS, cfg, **sides)
            except ValueError as error:
                raise ValueError(f"{name}={cfg} with {sides}: {error}") from error

        self.query = build("query", query, dim, dim) if query is not None else nn.Identity()
        self.key = build("key", key, dim, keys)
        self.act = build_activation(act_cfg)
        self.value = build("value", value, keys, dim)
