"""Which network a state dict is of.

The networks of the table of variants are built on the meta device, without memory, and compared
with the state dict by names and shapes. What is lost is not seen where a whole network is left:
one without the last block of a stage, say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..variants import FAMILIES, VARIANTS
from .files import WeightsError
from .layouts import LAYOUTS

if TYPE_CHECKING:  # the backbones import the weights
    from ..backbones.base import Backbone

Shapes = dict[str, tuple[int, ...]]

# Sizes of the candidates, which are replaced by those of a source.
_DIMS = (96, 192, 384, 768)
_IN_CHANNELS = 5
_OUTPUT = re.compile(r"norm\d\.|pyramid\.")
# Tensors that belong to the grid of positions in pre-training.
_GRID = re.compile(
    r"(?:stages\.(\d)|blocks)\.\*\.token_mixer\.(?:random_matrix|fc\.weight|fc1\.weight)"
)


@dataclass(frozen=True)
class Candidate:
    """A network of the table; names of ``shapes`` have ``*`` for the number of a block."""

    arch: str
    fused: bool
    shapes: Shapes

    def differing(self, shapes: Shapes) -> list[str]:
        """The names that only one of both has, without outputs."""
        return [name for name in self.shapes.keys() ^ shapes.keys() if not _OUTPUT.match(name)]

    def other_kernels(self, shapes: Shapes) -> int:
        """How many tensors have another shape behind their channels."""
        common = self.shapes.keys() & shapes.keys()
        return sum(self.shapes[name][2:] != shapes[name][2:] for name in common)


@dataclass(frozen=True)
class Network:
    """The network that a state dict is of, or the nearest, in its sizes and with its outputs."""

    arch: str
    backbone: Backbone
    #: Name of the norm in front of the logits in our ``ImageClassifier``.
    norm: str
    #: Whether it has the same names as the state dict.
    is_known: bool

    @property
    def channels(self) -> int:
        """Channels of the last stage."""
        settings: Any = self.backbone.settings
        return settings.dims[-1] if hasattr(settings, "dims") else settings.dim

    @property
    def has_norm(self) -> bool:
        """Whether its classifiers have a norm in front of the logits."""
        return all(o.has_norm for o in LAYOUTS if not o.own and o.serves(self.arch))


def find_network(weights: Mapping[str, Tensor], model: Backbone | None = None) -> Network:
    """The network of the table that tensors with our names are of, or the nearest to it.

    ``model`` is the network if it is known; none of the table needs to have its token mixers.

    Raises:
        WeightsError: If no network has such sizes.
    """
    shapes = _shapes(weights)
    if model is not None:
        nearest = min(
            _candidates(),
            key=lambda c: sum(".token_mixer." not in name for name in c.differing(shapes)),
        )
        settings: Any = model.settings
        return Network(nearest.arch, model, _norm(settings.out_norm_cfg), True)
    # Kernels tell networks with the same names apart.
    nearest = min(_candidates(), key=lambda c: (len(c.differing(shapes)), c.other_kernels(shapes)))
    try:
        backbone = _build(nearest.arch, nearest.fused, **_sizes(nearest, shapes, weights))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the source is no {nearest.arch} of any size: {error}") from error
    is_known = not nearest.differing(shapes)
    return Network(nearest.arch, backbone, _norm(_row(nearest.arch).get("out_norm_cfg")), is_known)


def _row(arch: str) -> dict[str, Any]:
    """The settings of a network of the table."""
    row: Any = VARIANTS[arch]
    return {**FAMILIES[row["family"]]["settings"], **row}


def _norm(out_norm_cfg: dict | None) -> str:
    """The norm in front of the logits: that of the last output if the network has one."""
    return "head.norm" if out_norm_cfg is None else "backbone.norm3"


def _shapes(weights: Mapping[str, Tensor]) -> Shapes:
    """The shapes of a network, with those of the first block of a stage for all of them."""
    shapes: Shapes = {}
    for name, tensor in weights.items():
        shapes.setdefault(re.sub(r"^(stages\.\d+|blocks)\.\d+\.", r"\1.*.", name), tensor.shape)
    return shapes


@cache
def _candidates() -> tuple[Candidate, ...]:
    """Of networks that hold the same, the first one."""
    found: dict[frozenset, Candidate] = {}
    for arch, row in VARIANTS.items():
        sizes: dict[str, Any] = dict(out_norm_cfg=None, in_channels=_IN_CHANNELS)
        if "dim" in row:
            sizes |= dict(dim=_DIMS[0], depth=4, pyramid=None)
        else:
            sizes |= dict(dims=_DIMS, depths=(1, 1, 1, 1))
        for fused in (False, True):
            shapes = _shapes(_build(arch, fused, **sizes).state_dict())
            found.setdefault(frozenset(shapes.items()), Candidate(arch, fused, shapes))
    return tuple(found.values())


def _build(arch: str, fused: bool, **options: Any) -> Backbone:
    from ..backbones.factory import build_backbone

    with torch.device("meta"):
        backbone = build_backbone(arch, **options).eval()
        return backbone.switch_to_deploy() if fused else backbone


def _sizes(candidate: Candidate, shapes: Shapes, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments that make a candidate as large as a source."""

    def read(size: int, axis: int, start: str) -> int:
        """What the source most often has where the candidate has a size, or the size itself."""
        found = Counter(
            shapes[name][axis]
            for name, shape in candidate.shapes.items()
            if shape[axis : axis + 1] == (size,) and re.match(start, name)
            if len(shapes.get(name, ())) > axis
        )
        return found.most_common(1)[0][0] if found else size

    def depth(blocks: str) -> int:
        return len({match[1] for name in weights if (match := re.match(blocks, name))})

    sizes: dict[str, Any] = dict(
        in_channels=read(_IN_CHANNELS, 1, r"downsample_layers\.0\.|stem\."),
        out_norm_cfg=_out_norm_cfg(shapes),
    )
    if any(name.startswith("stem.") for name in candidate.shapes):
        sizes |= dict(dim=read(_DIMS[0], 0, ""), depth=max(4, depth(r"blocks\.(\d+)\.")))
        if not any(name.startswith("pyramid.") for name in shapes):
            sizes["pyramid"] = None
    else:
        sizes["dims"] = [read(dim, 0, rf"\w+\.{i}\.") for i, dim in enumerate(_DIMS)]
        sizes["depths"] = [max(1, depth(rf"stages\.{i}\.(\d+)\.")) for i in range(4)]
        sizes["pos_embed_sizes"] = [
            shapes.get(name, candidate.shapes[name])[-1] if name in candidate.shapes else None
            for name in (f"pos_embeds.{i}.pos_embed" for i in range(4))
        ]
    return sizes | _pretrain_size(candidate.arch, shapes)


def _out_norm_cfg(names: Iterable[str]) -> dict | None:
    leaves = {name.partition(".")[2] for name in names if re.match(r"norm\d\.", name)}
    if not leaves:
        return None
    is_batch_norm = bool(leaves - {"weight", "bias"})
    return dict(type="BN") if is_batch_norm else dict(type="LN2d", bias="bias" in leaves)


def _pretrain_size(arch: str, shapes: Shapes) -> dict[str, int]:
    """Side of the pre-training images, for mixers that belong to their grid."""
    for name, shape in shapes.items():
        match = _GRID.fullmatch(name)
        if match and shape and isqrt(shape[-1]) ** 2 == shape[-1]:
            patch = _row(arch)["stem"].get("patch_size")
            stride = patch or 4 * 2 ** int(match[1])
            return dict(pretrain_size=stride * isqrt(shape[-1]))
    return {}
