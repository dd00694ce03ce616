"""What every backbone of the package promises, whatever its blocks are."""

from __future__ import annotations

import operator
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import switch_to_deploy
from ..variants import full_name
from ..weights import PublishedNames, find_checkpoint, is_pretrained, load_pretrained
from .arch import NUM_STAGES

DECAY_TYPES = ("layer_wise", "stage_wise")
FUSED_VARIABLE = "MMMETAFORMER_FUSED"


class Backbone(PublishedNames, BaseModule):
    """Four-level feature extractor for a neck.

    A state dict may have its own names or those of a published layout, inside of a trained detector
    or segmentor, too. Of a file it is there as a whole; see
    :class:`~mmmetaformer.weights.PublishedNames`.

    Attributes:
        out_indices: Stages that are emitted, 0 to 3, in the order of emission.
        out_channels: Channels of each emitted map.
        out_strides: Stride of each emitted map with respect to the image.

    Args:
        arch: Name of the network, or its settings as a dict.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages with
            their output norms.
        norm_eval: Keep BatchNorm layers in eval mode (their running statistics are not updated)
            also while training.
        with_cp: Recompute the blocks in the backward pass instead of storing their activations.
        fused: Whether blocks run in their fused form where they have one, with the same
            parameters and, but for rounding, the same results (see :mod:`mmmetaformer.fused`):
            ``'auto'`` on the CPU only, True everywhere (an error if there is none), False, or the
            name of an implementation that was registered, such as ``'triton'``. The environment
            variable ``MMMETAFORMER_FUSED=0`` turns it off. Read when the network is built.
        pretrained: Published weights of the arch by tag; see :func:`resolve_init_cfg`.
        init_cfg: Initialisation config of mmengine. ``dict(type='Pretrained', checkpoint=...)``
            takes any published layout (see :mod:`mmmetaformer.weights`) and raises unless every
            parameter but the output norms is found in the file with the right shape;
            ``new=['token_mixer']`` names parts that start anew, because they were replaced.
    """

    out_indices: tuple[int, ...]
    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]
    init_cfg: Any  # mmengine's, without types

    family: str | None = None

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        fused: bool | str = "auto",
        pretrained: str | bool | None = None,
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(resolve_init_cfg(init_cfg, pretrained, arch, self.family))
        if type(frozen_stages) is not int or frozen_stages not in range(-1, 5):
            raise ValueError(
                f"frozen_stages must be -1 (nothing), 0 (the stem) or 1 to 4 (the stem and that "
                f"many stages), got {frozen_stages!r}"
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.fused_path = resolve_fused(fused)

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, in_channels, H, W) to the emitted maps, each (B, C_i, H_i, W_i)."""

    @abstractmethod
    def numbered_blocks(self) -> Iterator[tuple[int, int, nn.Module]]:
        """Stage, number within the stage and the block itself, in the order of the forward pass."""

    @abstractmethod
    def frozen_modules(self) -> Iterable[nn.Module]:
        """The modules that ``frozen_stages`` freezes."""

    def _finish(self) -> None:
        """The last step of a constructor: freeze what is to be frozen, and fuse."""
        self._freeze()
        if self.fused_path is not False:
            from ..fused import fuse  # not read or run otherwise

            fuse(self, self.fused_path)

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles: the network as ``torch.fx`` traces it, in the mode
        (training or evaluation) that it is in."""
        graph = torch.fx.Tracer().trace(self)
        for node in graph.nodes:
            node.type = None  # TorchScript does not know tuples of any length
        return torch.fx.GraphModule(self, graph)

    def is_for_outputs(self, name: str) -> bool:
        """Whether a name in the state dict belongs to what dense prediction adds: a published
        classifier does not have it, and without it the pretrained function is complete."""
        return re.match(r"norm[0-3]\.", name) is not None

    @abstractmethod
    def is_behind_outputs(self, name: str) -> bool:
        """Whether a name belongs to a part behind the last emitted map, which is not built."""

    @abstractmethod
    def _num_layers(self) -> int:
        """The number of the last layer of the whole network, built or not."""

    @abstractmethod
    def _locate(self, name: str) -> tuple[int, int] | None:
        """Layer and stage of a parameter, both from 1, the stem being 0 and 0; None if the name
        says neither."""

    def num_layers(self, decay_type: str = "layer_wise") -> int:
        """The number of the last layer, counted as :meth:`layer_depth` does.

        It belongs to the whole network: what is not built behind the last emitted map counts.

        Raises:
            ValueError: If ``decay_type`` is neither ``'layer_wise'`` nor ``'stage_wise'``.
        """
        if decay_type not in DECAY_TYPES:
            raise ValueError(f"decay_type must be one of {DECAY_TYPES}, got {decay_type!r}")
        return self._num_layers() if decay_type == "layer_wise" else NUM_STAGES

    def layer_depth(self, name: str, decay_type: str = "layer_wise") -> int | None:
        """The number of the layer that a parameter belongs to, for learning rates by depth.

        Args:
            name: Name of one of the backbone's own parameters.
            decay_type: ``'layer_wise'``, as the class counts its layers, or ``'stage_wise'``, one
                number per stage with the downsampling in front of it.

        Returns:
            0 for the stem, then up to :meth:`num_layers`; None for what dense prediction adds
            (output norms, a pyramid), which is no part of the pretrained depth.

        Raises:
            ValueError: If there is no such parameter, or nothing is known of its depth.
        """
        self.num_layers(decay_type)  # refuses a wrong type
        try:
            self.get_parameter(name)
        except AttributeError:
            raise ValueError(f"{type(self).__name__} has no parameter {name!r}") from None
        if self.is_for_outputs(name):
            return None
        place = self._locate(name)
        if place is None:
            raise ValueError(
                f"{type(self).__name__} does not know how deep its parameter {name!r} lies: "
                "override layer_depth in the class that adds it"
            )
        layer, stage = place
        return layer if decay_type == "layer_wise" else stage

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """:meth:`layer_depth` in the convention of mmpretrain's constructor: the layer, and the
        number of layers including one for the stem and one behind the backbone."""
        last = self.num_layers()
        layer = None
        if param_name.startswith(prefix):
            layer = self.layer_depth(param_name.removeprefix(prefix))
        return (last + 1 if layer is None else layer), last + 2

    def train(self, mode: bool = True) -> Backbone:
        """As ``nn.Module.train``, but frozen parts and, with ``norm_eval``, BatchNorm stay in
        eval mode."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def switch_to_deploy(self) -> Backbone:
        """Fuse what trains as several branches into single convolutions, in place; see
        :func:`~mmmetaformer.layers.switch_to_deploy`."""
        switch_to_deploy(self)
        return self

    def _freeze(self) -> None:
        for module in self.frozen_modules():
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False

    def _dump_init_info(self) -> None:
        """Nothing: mmengine logs several lines for every parameter of a top-level module. Inside
        of a detector or segmentor, which is then the top level, that log is written as usual."""

    def init_weights(self) -> None:
        """As mmengine's, with a ``Pretrained`` initialisation that cannot fail silently."""
        cfgs = self.init_cfg or []
        cfgs = [cfgs] if isinstance(cfgs, dict) else list(cfgs)
        pretrained = [cfg for cfg in cfgs if is_pretrained(cfg)]
        if self._is_init or not pretrained:
            super().init_weights()
            return
        # mmengine's own ``Pretrained`` loads with strict=False and so accepts a file of which
        # not one key fits. The rest of its initialisation is kept.
        configured = self.init_cfg
        self.init_cfg = [cfg for cfg in cfgs if cfg not in pretrained]
        try:
            super().init_weights()
        finally:
            self.init_cfg = configured
        for cfg in pretrained:
            unknown = set(cfg) - {"type", "checkpoint", "prefix", "new", "map_location", "_scope_"}
            if unknown or "checkpoint" not in cfg:
                raise ValueError(f"Pretrained takes checkpoint, prefix and new, got {dict(cfg)}")
            report = load_pretrained(self, cfg["checkpoint"], cfg.get("prefix"), cfg.get("new", ()))
            if hasattr(self, "_params_init_info"):  # set while a whole detector is initialised
                update_init_info(self, init_info=f"Pretrained: {report.source}")


def resolve_fused(fused: bool | str) -> bool | str:
    """The argument ``fused`` of a backbone, after the environment variable ``MMMETAFORMER_FUSED``:
    ``0`` turns the fused path off whatever the argument is, ``1`` and ``auto`` change nothing, and
    the name of an implementation is what ``'auto'`` means then.

    Raises:
        ValueError: If the argument is neither a bool nor a name.
    """
    if not isinstance(fused, bool | str):
        raise ValueError(f"fused must be 'auto', True, False or a name, got {fused!r}")
    variable = os.environ.get(FUSED_VARIABLE, "")
    if variable == "0":
        return False
    return variable if fused == "auto" and variable not in ("", "1") else fused


def resolve_init_cfg(
    init_cfg: dict | Sequence[dict] | None,
    pretrained: str | bool | None,
    arch: str | Mapping[str, Any],
    family: str | None,
) -> dict | Sequence[dict] | None:
    """The initialisation that ``pretrained`` stands for.

    Args:
        init_cfg: The backbone's own; beside ``pretrained`` it may be a ``Pretrained`` without a
            checkpoint, which says the rest (``new``).
        pretrained: None or False for none, else as for
            :func:`~mmmetaformer.weights.find_checkpoint`.
        arch: The backbone's arch.
        family: The backbone's family.

    Raises:
        TypeError: If both name a checkpoint.
        ValueError: If there are no such weights.
    """
    if pretrained is None or pretrained is False:
        return init_cfg
    if not isinstance(arch, str):
        raise ValueError(f"pretrained={pretrained!r} needs an arch by name, got {arch!r}")
    given = {"type": "Pretrained"} if init_cfg is None else init_cfg
    if not isinstance(given, dict) or not is_pretrained(given) or "checkpoint" in given:
        raise TypeError(
            f"pretrained={pretrained!r} and init_cfg={init_cfg!r} cannot both be given: leave one"
        )
    checkpoint = find_checkpoint(full_name(arch, family), pretrained).url
    return {**given, "checkpoint": checkpoint}


def linear_drop_path(rate: float, num_blocks: int) -> Iterator[float]:
    """One rate per block of the whole network, from zero at the first to ``rate`` at the last.

    Raises:
        ValueError: If the rate is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path_rate must be in [0, 1), got {rate!r}")
    return (rate * block / max(1, num_blocks - 1) for block in range(num_blocks))


def resolve_out_indices(out_indices: int | Iterable[int], num_stages: int = 4) -> tuple[int, ...]:
    """Stage indices as a tuple of non-negative integers; the argument is not changed.

    Args:
        out_indices: An integer or any sequence of them; negative ones count from the end.
        num_stages: Number of stages.

    Raises:
        TypeError: If an index is no integer.
        ValueError: If an index is out of range, given twice, or there is none.
    """
    given = out_indices if isinstance(out_indices, Iterable) else (out_indices,)
    if isinstance(given, str):
        raise TypeError(f"out_indices must be integers, got {out_indices!r}")
    indices = []
    for item in given:
        try:
            index = operator.index(item)
        except TypeError:
            raise TypeError(f"out_indices must be integers, got {item!r}") from None
        if not -num_stages <= index < num_stages:
            raise ValueError(
                f"out_indices must be stages 0 to {num_stages - 1} (or -{num_stages} to -1), "
                f"got {index} in {out_indices!r}"
            )
        indices.append(index % num_stages)
    if not indices or len(set(indices)) != len(indices):
        raise ValueError(f"out_indices must name at least one stage, each once: {out_indices!r}")
    return tuple(indices)
