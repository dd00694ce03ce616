"""From a row of the table to the checked settings of one network."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from .variants import FAMILIES, VARIANTS

NUM_STAGES = 4


@dataclass(frozen=True)
class StageSettings:
    """What the blocks of one stage are built from."""

    depth: int
    dim: int
    downsampling: dict
    token_mixer: dict
    channel_mixer: dict | None
    norm_cfg: dict | None
    layer_scale_init_value: float | None
    res_scale_init_value: float | None


@dataclass(frozen=True)
class ArchSettings:
    """A hierarchical MetaFormer as data. Each field may also be a list of one value per stage,
    except ``depths`` and ``dims``, which always are, and those marked as single.

    Attributes:
        depths: Blocks of each stage.
        dims: Channels C of each stage.
        token_mixers: Name or config of the token mixer.
        channel_mixers: Name or config of the channel mixer; None leaves it out.
        norm_cfg: Norm of the blocks; None means no norm.
        act_cfg: Activation of the channel mixers (single).
        stem: Config of the layer before stage 0 (single).
        downsampling: Config of the layer before each later stage (single).
        out_norm_cfg: Norm of each emitted map; None emits the raw stage outputs (single).
        layer_scale_init_value: Initial LayerScale; None means none.
        res_scale_init_value: Initial scale of the identity path; None means none.
        residual: False leaves the identity paths out, an ablation of the paper (single).
    """

    depths: Sequence[int]
    dims: Sequence[int]
    token_mixers: Any
    stem: dict
    downsampling: dict
    channel_mixers: Any = "mlp"
    norm_cfg: Any = None
    act_cfg: Any = "GELU"
    out_norm_cfg: dict | None = None
    layer_scale_init_value: Any = None
    res_scale_init_value: Any = None
    residual: bool = True

    def __post_init__(self) -> None:
        for name in ("depths", "dims"):
            value = getattr(self, name)
            if not isinstance(value, Sequence) or len(value) != NUM_STAGES:
                raise ValueError(f"{name} must be a list of {NUM_STAGES} integers, got {value!r}")
            for item in value:
                if not isinstance(item, int) or isinstance(item, bool) or item < 1:
                    raise ValueError(f"{name} must be positive integers, got {value!r}")
        for name in ("stem", "downsampling"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not {"type", "stride"} <= set(value):
                raise ValueError(f"{name} must be a dict with 'type' and 'stride', got {value!r}")
        for name in ("layer_scale_init_value", "res_scale_init_value"):
            for item in self._per_stage(name):
                if item is not None and not isinstance(item, int | float):
                    raise TypeError(f"{name} must be a number or None, got {item!r}")
        # Configs of parts may be given as a plain name; from here on they are dicts.
        for name in ("act_cfg", "out_norm_cfg"):
            object.__setattr__(self, name, _as_cfg(name, getattr(self, name)))

    def _per_stage(self, name: str) -> list:
        value = getattr(self, name)
        if not isinstance(value, list | tuple):
            return [value] * NUM_STAGES
        if len(value) != NUM_STAGES:
            raise ValueError(
                f"{name} must be one value or a list of {NUM_STAGES} (one per stage), "
                f"got {len(value)}: {value!r}"
            )
        return list(value)

    def stages(self) -> list[StageSettings]:
        """The settings of each stage, with everything broadcast."""
        cfgs = {
            name: [_as_cfg(name, value) for value in self._per_stage(name)]
            for name in ("token_mixers", "channel_mixers", "norm_cfg")
        }
        if None in cfgs["token_mixers"]:
            raise ValueError("token_mixers has a None: use 'identity' for a stage without mixing")
        layer_scale = self._per_stage("layer_scale_init_value")
        res_scale = self._per_stage("res_scale_init_value")
        return [
            StageSettings(
                depth=self.depths[i],
                dim=self.dims[i],
                downsampling=dict(self.stem if i == 0 else self.downsampling),
                token_mixer=cfgs["token_mixers"][i],
                channel_mixer=cfgs["channel_mixers"][i],
                norm_cfg=cfgs["norm_cfg"][i],
                layer_scale_init_value=layer_scale[i],
                res_scale_init_value=res_scale[i],
            )
            for i in range(NUM_STAGES)
        ]


def _as_cfg(name: str, value: Any) -> dict | None:
    if value is None:
        return None
    if isinstance(value, str | type):
        return dict(type=value)
    if isinstance(value, Mapping) and "type" in value:
        return dict(value)
    raise TypeError(f"{name} must be a name or a dict with the key 'type', got {value!r}")


def list_archs(pattern: str = "*") -> list[str]:
    """Names of the known networks, in the order of the table.

    Args:
        pattern: Shell-style pattern, for instance ``'poolformer_s*'``.

    Example:
        >>> list_archs('poolformer_m*')
        ['poolformer_m36', 'poolformer_m48']
    """
    return [name for name in VARIANTS if fnmatchcase(name, pattern)]


def find_variant(arch: str, family: str | None = None) -> dict:
    """The row of the table for a name, full (``'poolformer_s12'``) or short within its family.

    Raises:
        ValueError: If there is no such row; lists the choices and the nearest names.
    """
    if not isinstance(arch, str):
        raise TypeError(f"arch must be a name or a dict, got {arch!r}")
    name = arch if arch in VARIANTS or family is None else f"{family}_{arch}"
    row = VARIANTS.get(name)
    if row is None or (family is not None and row["family"] != family):
        known = [n for n, v in VARIANTS.items() if family in (None, v["family"])]
        if family is not None:
            known = [n.removeprefix(f"{family}_") for n in known]
        near = difflib.get_close_matches(arch, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown arch {arch!r}: expected a dict or one of {known}.{hint}")
    return row


def resolve_arch(
    arch: str | Mapping[str, Any], family: str | None, overrides: Mapping[str, Any]
) -> ArchSettings:
    """Family settings, then the variant's, then the caller's own: the later wins.

    Args:
        arch: Name of a variant, or a dict of fields of :class:`ArchSettings`.
        family: Key of ``FAMILIES``; None accepts the full name of any network.
        overrides: Fields of :class:`ArchSettings` that replace the variant's.

    Raises:
        ValueError: For an unknown name or a wrong value.
        TypeError: For an unknown or missing field, or a value of a wrong type.
    """
    if isinstance(arch, Mapping):
        row = dict(arch)
        # A dict alone names no family; its own fields, on PoolFormer's stem and downsampling,
        # are what a user of the general block starts from.
        base = FAMILIES[family or "poolformer"]["settings"]
    else:
        row = dict(find_variant(arch, family))
        base = FAMILIES[row.pop("family")]["settings"]
    settings = {**base, **row, **overrides}
    known = [f.name for f in fields(ArchSettings)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise TypeError(f"unknown arch settings or arguments {unknown}: expected some of {known}")
    missing = [name for name in ("depths", "dims") if name not in settings]
    if missing:
        raise TypeError(f"the arch dict lacks {missing}")
    return ArchSettings(**settings)
