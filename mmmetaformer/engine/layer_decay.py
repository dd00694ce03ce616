"""Learning rates that decay from the heads towards the image."""

from __future__ import annotations

import re
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..backbones.base import Backbone, check_decay_type
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

_LAYER_SCALE = re.compile(r"(^|\.)layer_scale[12]\.scale$")
_POS_EMBED = re.compile(r"(^|\.)pos_embeds\.")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Layer-wise or stage-wise decay of the learning rate (`BEiT
    <https://arxiv.org/abs/2106.08254>`_) for every backbone of this package::

        optim_wrapper=dict(
            constructor='mmmetaformer.LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            paramwise_cfg=dict(decay_rate=0.8))

    The backbone says how deep each of its parameters lies
    (:meth:`~mmmetaformer.backbones.base.Backbone.layer_depth`); layer ``i`` of ``n`` learns at
    ``lr * decay_rate ** (n + 1 - i)``. Neck and heads, and what dense prediction adds to the
    backbone, learn at the full rate. Vectors, biases and position embeddings have no weight decay.

    ``paramwise_cfg`` takes:

    - ``decay_rate``: in (0, 1].
    - ``decay_type``: ``'layer_wise'`` (default) or ``'stage_wise'``.
    - ``num_layers``: n. By default the backbone's own; given, the last layer has this number
      and those before it at most this number.
    - ``as_released``: True for the two oddities of the constructor in FFNet's release (`MetaMixer
      <https://arxiv.org/abs/2406.02021>`_): the stem learns at the full rate, though no layer is
      more general, and LayerScale has weight decay, which pulls the branches to zero. Published
      results were trained so, hence the flag; the default is False.
    - mmengine's own options (``custom_keys``, ``norm_decay_mult``, ...), which multiply. As
      there, a parameter under a custom key is exempt from the other rules of weight decay.

    Raises:
        ValueError: For a wrong option, or a model without a backbone of this package.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        options = dict(self.paramwise_cfg)
        self.decay_rate = options.pop("decay_rate", None)
        self.decay_type = options.pop("decay_type", "layer_wise")
        self.last_layer = options.pop("num_layers", None)
        self.as_released = options.pop("as_released", False)
        rate = self.decay_rate
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ValueError(f"paramwise_cfg needs a decay_rate in (0, 1], got {rate!r}")
        check_decay_type(self.decay_type)
        last = self.last_layer
        if last is not None and (type(last) is not int or last < 1):
            raise ValueError(f"num_layers must be a positive integer, got {last!r}")
        if not isinstance(self.as_released, bool):
            raise ValueError(f"as_released must be True or False, got {self.as_released!r}")
        if self.base_lr is None:
            raise ValueError("a decaying learning rate needs the lr of the optimizer")
        self.paramwise_cfg = {"flat_decay_mult": 0.0, "bias_decay_mult": 0.0, **options}

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs: Any
    ) -> None:
        """One group of parameters per learning rate and weight decay, in the order of the model.

        Args:
            params: Where the groups are added.
            module: The model; in mmengine's recursion, with a ``prefix``, a part of it.
        """
        if prefix:
            super().add_params(params, module, prefix, **kwargs)
            return
        backbones = {n: m for n, m in module.named_modules() if isinstance(m, Backbone)}
        if not backbones:
            raise ValueError(
                f"{type(module).__name__} has no backbone of mmmetaformer: "
                f"{type(self).__name__} asks it how deep its layers are"
            )
        single: list[dict] = []
        super().add_params(single, module, **kwargs)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        groups: dict[str, dict] = {}
        for group in single:
            (parameter,) = group.pop("params")
            name = names[id(parameter)]
            self._adjust(group, name, self._depth(name, backbones))
            same = groups.setdefault(
                repr(sorted(group.items())), {**group, "params": [], "param_names": []}
            )
            same["params"].append(parameter)
            same["param_names"].append(name)
        for group in groups.values():
            print_log(
                f"lr {group['lr']:.4g}, weight decay {group.get('weight_decay', self.base_wd)}: "
                f"{len(group['params'])} parameters from {group['param_names'][0]}",
                logger="current",
            )
        params.extend(groups.values())

    def _depth(self, name: str, backbones: dict[str, Backbone]) -> int | None:
        """Layers between a parameter and the heads; None outside of what was pretrained."""
        for prefix, backbone in backbones.items():
            start = f"{prefix}." if prefix else ""
            if not name.startswith(start):
                continue
            layer = backbone.layer_depth(name.removeprefix(start), self.decay_type)
            if layer is None or (layer == 0 and self.as_released):
                return None
            natural = backbone.num_layers(self.decay_type)
            last = self.last_layer or natural
            return last + 1 - (last if layer == natural else min(layer, last))
        return None

    def _adjust(self, group: dict, name: str, depth: int | None) -> None:
        # What custom keys are called by is no option of an optimiser.
        group.pop("lr_mult", None)
        group.pop("decay_mult", None)
        group["lr"] = group.get("lr", self.base_lr) * self.decay_rate ** (depth or 0)
        if self.base_wd is None:
            return
        group.setdefault("weight_decay", self.base_wd)
        if depth is None:
            return
        if self.as_released and _LAYER_SCALE.search(name):
            group["weight_decay"] = self.base_wd
        if _POS_EMBED.search(name):
            group["weight_decay"] = 0.0
