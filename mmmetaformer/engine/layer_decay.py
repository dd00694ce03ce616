"""Learning rates that decay with the depth of a layer, for every backbone of the package."""

from __future__ import annotations

import re
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..backbones.base import DECAY_TYPES, Backbone
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

_OWN_OPTIONS = ("decay_rate", "decay_type", "num_layers", "as_released")
_MMENGINE_OPTIONS = (
    "custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "flat_decay_mult",
    "dwconv_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate",
)  # fmt: skip
# The learning rate and weight decay of a custom key are in the group itself; the factors would
# only keep equal groups apart.
_FACTORS = ("lr_mult", "decay_mult")

_LAYER_SCALE = re.compile(r"\.layer_scale[12]\.scale$")
_POSITION_EMBEDDING = re.compile(r"^pos_embeds\.\d+\.")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """The nearer a pretrained layer is to the image, the less it learns.

    A parameter of a backbone has the learning rate times
    ``decay_rate ** (num_layers + 1 - layer)``, its layer being what
    :meth:`~mmmetaformer.backbones.Backbone.layer_depth` says. Output norms, pyramids, necks and
    heads start anew and have the full rate. Several backbones in one model are decayed each by
    its own depth, and parameters without ``requires_grad`` are in no group. Parameters of equal
    settings share a group, which holds their names as ``param_names``.

    1-D parameters (norms, biases, LayerScale, residual scales) and the backbone's position
    embeddings have no weight decay.

    Args:
        optim_wrapper_cfg: As for mmengine's ``DefaultOptimWrapperConstructor``; the optimizer must
            name ``lr``. Weight decay is set where it names ``weight_decay``.
        paramwise_cfg: Any of mmengine's options, which multiply on top, and:

            - ``decay_rate``: Factor from each layer to the one before, in (0, 1].
            - ``decay_type``: ``'layer_wise'`` (default) or ``'stage_wise'``.
            - ``num_layers``, layer-wise only: Number of the last layer; layers before it keep their
              own numbers, up to this one. Published recipes have fixed ones, such as 12, for
              networks of any depth. By default the backbone's natural number.
            - ``as_released``, layer-wise only: Whether to reproduce the groups of FFNet's release;
              see below.

            ``flat_decay_mult`` and ``bias_decay_mult`` are 0 by default. They hold for what
            ``custom_keys`` matches, too, unless the key has a ``decay_mult`` of its own, which is
            the last word also on position embeddings and LayerScale: a key that is there for a
            learning rate would otherwise, as in mmengine, turn weight decay on.

    ``as_released=True`` is for repeating the experiments of `FFNet
    <https://arxiv.org/abs/2406.02021>`_, whose released constructor differs from the above twice:

    - The stem learns at the full rate. Here it is layer 0 and the slowest: edges and colours are
      what changes least from one task to another.
    - Weight decay applies to LayerScale, which is a 3-D tensor there and so escapes the rule for
      1-D ones. Here it does not: it would pull every branch towards zero, and LayerScale starts
      near zero in order to grow.

    Raises:
        ValueError: For an option that is missing, unknown or out of range, and for a model
            without a backbone of this package.
        TypeError: For a value of a wrong type.

    Example:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     constructor='mmmetaformer.LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(decay_rate=0.8))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        options = _checked({} if paramwise_cfg is None else paramwise_cfg)
        super().__init__(optim_wrapper_cfg, options)
        if self.base_lr is None:
            raise ValueError("the optimizer needs lr, the learning rate that decays: dict(lr=...)")
        self.decay_rate = options["decay_rate"]
        self.decay_type = options.get("decay_type", "layer_wise")
        self.num_layers = options.get("num_layers")
        self.as_released = options.get("as_released", False)
        # Only now: mmengine refuses multipliers of a weight decay that the optimizer does not name.
        self.paramwise_cfg.setdefault("flat_decay_mult", 0.0)
        self.paramwise_cfg.setdefault("bias_decay_mult", 0.0)

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Fill ``params`` with the groups of a model; arguments as for mmengine's."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:  # mmengine descends by calling this method; the model itself comes last
            return
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        homes = _backbone_parameters(module)
        groups: list[tuple[dict, dict]] = []
        for single in params:
            (parameter,) = single.pop("params")
            name = names.pop(id(parameter), None)
            if name is None:  # shared with a module further up, under whose name it is in a group
                continue
            settings = self._settings(single, name, parameter, homes.get(id(parameter)))
            group = next((group for same, group in groups if same == settings), None)
            if group is None:
                group = dict(params=[], param_names=[], **settings)
                groups.append((settings, group))
            group["params"].append(parameter)
            group["param_names"].append(name)
        params[:] = [group for _, group in groups]
        for group in params:
            decay = f", weight decay {group['weight_decay']:g}" if "weight_decay" in group else ""
            print_log(
                f"lr {group['lr']:.4g}{decay}: {len(group['params'])} parameters, the first "
                f"{group['param_names'][0]}",
                logger="current",
            )

    def _settings(
        self, given: dict, name: str, parameter: nn.Parameter, home: tuple[Backbone, str] | None
    ) -> dict[str, Any]:
        """What an optimizer is told of one parameter, from what mmengine's rules gave it."""
        settings = {key: value for key, value in given.items() if key not in _FACTORS}
        settings.setdefault("lr", self.base_lr)
        if home is not None:
            settings["lr"] *= self._lr_scale(*home)
        if self.base_wd is not None:
            settings.setdefault("weight_decay", self.base_wd)
            if "decay_mult" not in given:
                settings["weight_decay"] = self._weight_decay(settings, name, parameter, home)
        return settings

    def _lr_scale(self, backbone: Backbone, name: str) -> float:
        layer = backbone.layer_depth(name, self.decay_type)
        if layer is None or (layer == 0 and self.as_released):
            return 1.0
        natural = backbone.num_layers(self.decay_type)
        last = self.num_layers or natural
        layer = last if layer == natural else min(layer, last)
        return self.decay_rate ** (last + 1 - layer)

    def _weight_decay(
        self,
        settings: dict,
        name: str,
        parameter: nn.Parameter,
        home: tuple[Backbone, str] | None,
    ) -> float:
        own_name = "" if home is None else home[1]
        if _POSITION_EMBEDDING.search(own_name):
            return 0.0
        if self.as_released and _LAYER_SCALE.search(own_name):
            return self.base_wd
        # mmengine applies none of its rules to what a custom key matches.
        if any(key in name for key in self.paramwise_cfg.get("custom_keys", ())):
            if name.rpartition(".")[2] == "bias":
                return self.base_wd * self.paramwise_cfg["bias_decay_mult"]
            if parameter.ndim == 1:
                return self.base_wd * self.paramwise_cfg["flat_decay_mult"]
        return settings["weight_decay"]


def _backbone_parameters(model: nn.Module) -> dict[int, tuple[Backbone, str]]:
    """The backbone and the name therein of each parameter of a backbone, by its ``id``."""
    backbones = [module for module in model.modules() if isinstance(module, Backbone)]
    if not backbones:
        raise ValueError(
            f"{type(model).__name__} has no backbone of mmmetaformer, such as "
            "dict(type='mmmetaformer.PoolFormer'): nothing else knows the depth of its layers"
        )
    return {
        id(parameter): (backbone, name)
        for backbone in backbones
        for name, parameter in backbone.named_parameters()
    }


def _checked(paramwise_cfg: Any) -> dict[str, Any]:
    """A copy of the options, checked as far as they are this module's."""
    if not isinstance(paramwise_cfg, dict):
        raise TypeError(f"paramwise_cfg must be a dict with 'decay_rate', got {paramwise_cfg!r}")
    # Without mmengine's note on inherited dicts.
    options = {key: value for key, value in paramwise_cfg.items() if key != "_scope_"}
    unknown = sorted(set(options) - {*_OWN_OPTIONS, *_MMENGINE_OPTIONS})
    if unknown:
        raise ValueError(
            f"unknown paramwise_cfg {unknown}: expected some of "
            f"{[*_OWN_OPTIONS, *_MMENGINE_OPTIONS]}"
        )
    if "decay_rate" not in options:
        raise ValueError(
            "paramwise_cfg lacks 'decay_rate', the factor from each layer to the one before, in "
            "(0, 1]: for instance dict(decay_rate=0.8)"
        )
    rate = options["decay_rate"]
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise TypeError(f"decay_rate must be a number in (0, 1], got {rate!r}")
    if not 0 < rate <= 1:
        raise ValueError(f"decay_rate must be in (0, 1], got {rate!r}")
    kind = options.get("decay_type", DECAY_TYPES[0])
    if kind not in DECAY_TYPES:
        raise ValueError(f"decay_type must be one of {DECAY_TYPES}, got {kind!r}")
    for name in ("num_layers", "as_released"):
        if kind == "stage_wise" and options.get(name):
            raise ValueError(f"{name} is for decay_type='layer_wise', got {kind!r}: leave it out")
    last = options.get("num_layers")
    if last is not None and (type(last) is not int or last < 1):
        raise ValueError(
            f"num_layers must be a positive integer, or None for the backbone's own, got {last!r}"
        )
    released = options.get("as_released", False)
    if not isinstance(released, bool):
        raise TypeError(f"as_released must be True or False, got {released!r}")
    return options
