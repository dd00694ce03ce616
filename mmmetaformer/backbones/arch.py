"""From a row of the table to the checked settings of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, TypeVar

from .._moved import moved_name
from ..registry import TOKEN_MIXERS, as_cfg, as_required_cfg, part_takes
from ..variants import FAMILIES, find_variant

NUM_STAGES = 4


@dataclass(frozen=True, kw_only=True)
class BlockSettings:
    """What the blocks of a network are made of. Each field may be one value or a list of one
    value per stage, except those marked as single.

    Attributes:
        stem: Config of the layer before stage 0 (single).
        token_mixers: Name or config of the token mixer.
        channel_mixers: Name or config of the channel mixer; None leaves it out.
        norm_cfg: Norm of the blocks; None means no norm.
        act_cfg: Activation of mixers, stem and downsampling, where they have one and their own
            configs name none (single).
        inner_norm_cfg: Norm inside of mixers, stem and downsampling, where they take a
            ``norm_cfg`` and their own configs name none; None leaves them their own (single).
        out_norm_cfg: Norm of each emitted map; None emits them raw (single).
        layer_scale_init_value: Initial LayerScale; None means none.
        res_scale_init_value: Initial scale of the identity path; None means none.
        residual: False leaves the identity paths out; a pair says so for the residual of the
            token mixer and that of the channel mixer (single).
        pretrain_size: Side of the images of pre-training. Mixers with a ``grid_size`` belong to
            the grid that their stage has on such an image (single).
    """

    stem: dict
    token_mixers: Any
    channel_mixers: Any = "mlp"
    norm_cfg: Any = None
    act_cfg: Any = "GELU"
    inner_norm_cfg: Any = None
    out_norm_cfg: dict | None = None
    layer_scale_init_value: Any = None
    res_scale_init_value: Any = None
    residual: bool | Sequence[bool] = True
    pretrain_size: int = 224

    structure: ClassVar[str]

    def __post_init__(self) -> None:
        for name in ("layer_scale_init_value", "res_scale_init_value"):
            for item in self._per_stage(name):
                if item is not None and not isinstance(item, int | float):
                    raise TypeError(f"{name} must be a number or None, got {item!r}")
        self._check_integers("pretrain_size", [self.pretrain_size])
        # Configs of parts may be given as a plain name; from here on they are dicts.
        for name in ("act_cfg", "inner_norm_cfg", "out_norm_cfg"):
            object.__setattr__(self, name, as_cfg(name, getattr(self, name)))

    def _check_integers(self, name: str, values: Sequence) -> None:
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                shown = values[0] if len(values) == 1 else list(values)
                raise ValueError(f"{name} must be positive integers, got {shown!r}")

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

    def blocks(self, strides: Sequence[int]) -> list[dict]:
        """For each stage the arguments of its blocks, with everything broadcast.

        Args:
            strides: Stride of each stage in pre-training.
        """
        token_mixers = self._per_stage("token_mixers")
        if None in token_mixers:
            raise ValueError("token_mixers has a None: use 'identity' for a stage without mixing")
        token_mixers = [as_required_cfg("token_mixers", value) for value in token_mixers]
        channel_mixers, norms = (
            [as_cfg(name, value) for value in self._per_stage(name)]
            for name in ("channel_mixers", "norm_cfg")
        )
        layer_scale = self._per_stage("layer_scale_init_value")
        res_scale = self._per_stage("res_scale_init_value")
        return [
            dict(
                token_mixer=self._with_grid(token_mixers[i], strides[i]),
                channel_mixer=channel_mixers[i],
                norm_cfg=norms[i],
                part_defaults=self.part_defaults(),
                layer_scale_init_value=layer_scale[i],
                res_scale_init_value=res_scale[i],
                residual=self.residual,
            )
            for i in range(NUM_STAGES)
        ]

    def part_defaults(self) -> dict:
        """What the network hands to each of its parts that takes it."""
        defaults = dict(act_cfg=self.act_cfg)
        if self.inner_norm_cfg is not None:
            defaults["norm_cfg"] = self.inner_norm_cfg
        return defaults

    def _with_grid(self, mixer: dict, stride: int) -> dict:
        if "grid_size" in mixer or not part_takes(TOKEN_MIXERS, mixer, "grid_size"):
            return mixer
        return {**mixer, "grid_size": -(-self.pretrain_size // stride)}


@dataclass(frozen=True)
class StageSettings:
    """What one stage of a hierarchical network is built from."""

    depth: int
    dim: int
    downsampling: dict
    pos_embed_size: int | None
    block: dict


@dataclass(frozen=True, kw_only=True)
class ArchSettings(BlockSettings):
    """A hierarchical MetaFormer as data.

    Attributes:
        depths: Blocks of each stage (a list).
        dims: Channels C of each stage (a list).
        downsampling: Config of the layer before each later stage (single).
        pos_embed_sizes: Side of the grid of a learnable position embedding in front of a stage's
            blocks, which is resized to other maps; None means none.
    """

    depths: Sequence[int]
    dims: Sequence[int]
    downsampling: dict
    pos_embed_sizes: Any = None

    structure: ClassVar[str] = "hierarchical"

    def __post_init__(self) -> None:
        for name in ("depths", "dims"):
            value = getattr(self, name)
            if not isinstance(value, Sequence) or len(value) != NUM_STAGES:
                raise ValueError(f"{name} must be a list of {NUM_STAGES} integers, got {value!r}")
            self._check_integers(name, value)
        for name in ("stem", "downsampling"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not {"type", "stride"} <= set(value):
                raise ValueError(f"{name} must be a dict with 'type' and 'stride', got {value!r}")
            self._check_integers(f"the stride of {name}", [value["stride"]])
        given = [size for size in self._per_stage("pos_embed_sizes") if size is not None]
        self._check_integers("pos_embed_sizes", given)
        super().__post_init__()

    def strides(self) -> list[int]:
        """Stride of each stage. It is what the configs say and never read off the channels."""
        strides = [self.stem["stride"]]
        for _ in range(1, NUM_STAGES):
            strides.append(strides[-1] * self.downsampling["stride"])
        return strides

    def stages(self) -> list[StageSettings]:
        """The settings of each stage, with everything broadcast."""
        blocks = self.blocks(self.strides())
        pos_embed_sizes = self._per_stage("pos_embed_sizes")
        return [
            StageSettings(
                depth=self.depths[i],
                dim=self.dims[i],
                downsampling=dict(self.stem if i == 0 else self.downsampling),
                pos_embed_size=pos_embed_sizes[i],
                block=blocks[i],
            )
            for i in range(NUM_STAGES)
        ]


@dataclass(frozen=True, kw_only=True)
class IsotropicSettings(BlockSettings):
    """A MetaFormer of one stride as data; its stages are the quarters of its blocks.

    Attributes:
        depth: Number of blocks, at least four.
        dim: Channels C.
        pyramid: Config of the layer that brings the maps to the strides 4, 8, 16, 32; None emits
            the maps as they are (single).
    """

    depth: int
    dim: int
    pyramid: Any = "ScalePyramid"

    structure: ClassVar[str] = "isotropic"

    def __post_init__(self) -> None:
        self._check_integers("depth", [self.depth])
        self._check_integers("dim", [self.dim])
        if self.depth < NUM_STAGES:
            raise ValueError(f"depth must be at least {NUM_STAGES}, got {self.depth}")
        if not isinstance(self.stem, Mapping) or not {"type", "patch_size"} <= set(self.stem):
            raise ValueError(f"stem must be a dict with 'type' and 'patch_size', got {self.stem!r}")
        self._check_integers("the patch_size of stem", [self.stem["patch_size"]])
        if {"in_channels", "in_stride", "levels"} & set(as_cfg("pyramid", self.pyramid) or ()):
            raise ValueError(
                "in_channels, in_stride and levels of the pyramid follow from the network"
            )
        object.__setattr__(self, "pyramid", as_cfg("pyramid", self.pyramid))
        super().__post_init__()

    def depths(self) -> list[int]:
        """Blocks of each quarter: the outputs are behind blocks n/4, n/2, 3n/4 and n."""
        ends = [self.depth * i // NUM_STAGES for i in range(NUM_STAGES + 1)]
        return [end - start for start, end in zip(ends, ends[1:], strict=False)]


Settings = TypeVar("Settings", bound=BlockSettings)


def resolve_arch(
    arch: str | Mapping[str, Any],
    family: str | None,
    overrides: Mapping[str, Any],
    settings_class: type[Settings],
    default_family: str,
) -> Settings:
    """Family settings, then the variant's, then the caller's own: the later wins.

    Args:
        arch: Name of a variant, or a dict of fields of ``settings_class``.
        family: Key of ``FAMILIES``; None accepts the full name of any network of the structure.
        overrides: Fields of ``settings_class`` that replace the variant's.
        settings_class: What to build.
        default_family: Whose settings a dict starts from when no family is given.

    Raises:
        ValueError: For an unknown name or a wrong value.
        TypeError: For an unknown or missing field, or a value of a wrong type.
    """
    if isinstance(arch, Mapping):
        row = dict(arch)
        base = FAMILIES[family or default_family]
    else:
        row = dict(find_variant(arch, family))
        base = FAMILIES[row.pop("family")]
    if base["structure"] != settings_class.structure:
        raise ValueError(
            f"{arch!r} is a {base['structure']} network: build it with "
            f"create_backbone or type='mmmetaformer.{base['backbone']}'"
        )
    settings = {**base["settings"], **row, **overrides}
    known = [f.name for f in fields(settings_class)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise TypeError(f"unknown arch settings or arguments {unknown}: expected some of {known}")
    missing = [
        field.name
        for field in fields(settings_class)
        if field.default is MISSING and field.name not in settings
    ]
    if missing:
        raise TypeError(f"the arch dict lacks {missing}")
    return settings_class(**settings)


def __getattr__(name: str) -> object:
    return moved_name(__name__, name)
