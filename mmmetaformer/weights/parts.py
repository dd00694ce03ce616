"""Whether a state dict holds a whole network, by names and shapes alone.

The parts that a network may have are data here. A *kind* of a part maps each of its names to a
shape, which is written as the sides: a number, or a letter that stands for the same number wherever
it is found in the part; ``C`` are the channels of the stage, ``3C`` three times as many. What is of
no kind is a part of someone's own; it is taken for whole if several blocks have it alike.

A loss that leaves another network whole cannot be seen: the last block of a stage, say, or a bias
of all blocks of a stage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, product

from torch import Tensor

from .files import WeightsError

Kind = dict[str, str]
Part = Mapping[str, tuple[int, ...]]  # shapes by name
Sides = dict[str, int]

NUM_STAGES = 4
_SHOWN = 5
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# What a norm holds: nothing (or there is none), a factor, a bias, statistics.
_NORMS = ((), ("weight",), ("weight", "bias"), ("weight", "bias", *_STATISTICS))


def _merged(*kinds: Kind) -> Kind:
    return {name: shape for kind in kinds for name, shape in kind.items()}


def _each(*choices: Iterable[Kind]) -> list[Kind]:
    """One of each, in all ways."""
    return [_merged(*chosen) for chosen in product(*choices)]


def _norm(name: str, leaves: Iterable[str], side: str = "C") -> Kind:
    return {f"{name}.{leaf}": "" if leaf == _STATISTICS[-1] else side for leaf in leaves}


def _conv(name: str, shape: str, *, bias: bool = True) -> Kind:
    weight = {f"{name}.weight": shape}
    return {**weight, f"{name}.bias": shape.split()[0]} if bias else weight


def _conv_norm(name: str, shape: str, leaves: Iterable[str]) -> Kind:
    conv = _conv(f"{name}.conv", shape, bias=False)
    return _merged(conv, _norm(f"{name}.norm", leaves, shape.split()[0]))


def _branches(name: str, leaves: Iterable[str]) -> list[Kind]:
    """Depthwise convolutions side by side, as FFNet and FFNet_seg train them."""
    return [
        _merged(
            *(
                _conv_norm(f"{name}.branches.{number}", f"C 1 {kernel}", leaves)
                for number, kernel in enumerate(kernels)
            )
        )
        for kernels in (
            ("k k", "s s"),
            ("k k", "1 k", "k 1"),
            ("k k", "s s", "1 k", "k 1"),
        )
    ]


def _activations(name: str) -> list[Kind]:
    return [{}, {f"{name}.scale": "1", f"{name}.bias": "1"}, {f"{name}.weight": "A"}]


_BIAS = (True, False)

_TOKEN_MIXERS: list[Kind] = [
    {},
    # Attention, random matrix, spatial FC, token MLP.
    *_each(
        [_conv("qkv", "3C C", bias=bias) for bias in _BIAS],
        [_conv("proj", "C C", bias=bias) for bias in _BIAS],
    ),
    {"random_matrix": "N N"},
    {"fc.weight": "N N"},
    *_each([_conv("fc1", "T N")], _activations("act"), [_conv("fc2", "N T")]),
    # Depthwise convolution, alone and with what ConvMixer has behind it; separable convolution.
    _conv("conv", "C 1 k k", bias=False),
    *_each(
        [_conv("conv", "C 1 k k")],
        _activations("act"),
        [_norm("norm", leaves) for leaves in _NORMS],
    ),
    *(
        _merged(
            _conv("pwconv1", "H C 1 1", bias=bias),
            activation,
            _conv("dwconv", "H 1 k k", bias=bias),
            _conv("pwconv2", "C H 1 1", bias=bias),
        )
        for bias in _BIAS
        for activation in _activations("act1")
    ),
    # FFNified attention, fused or not, and other instances of MetaMixer.
    *(
        kind
        for leaves in _NORMS
        for kind in _each(
            [
                {},
                *(_conv("query", "C C 1 1", bias=bias) for bias in _BIAS),
                _conv_norm("query", "C C 1 1", leaves),
            ],
            *(
                [_conv(name, f"C 1 {side} {side}"), *_branches(name, leaves)]
                for name, side in (("key", "a"), ("value", "b"))
            ),
        )
    ),
]

_CHANNEL_MIXERS: list[Kind] = [
    *(
        _merged(
            _conv("mlp.fc1", "H C 1 1", bias=bias),
            activation,
            _conv("mlp.fc2", "C H 1 1", bias=bias),
        )
        for bias in _BIAS
        for activation in _activations("mlp.act")
    ),
    *_each(
        [_conv("mlp.conv", "C C 1 1")],
        _activations("mlp.act"),
        [_norm("mlp.norm", leaves) for leaves in _NORMS],
    ),
    *(
        _merged(conv, _conv("mlp.fc1", "H C 1 1"), activation, _conv("mlp.fc2", "C H 1 1"))
        for activation in _activations("mlp.act")
        for conv in (
            _conv("mlp.conv", "C 1 k k"),
            *(_conv_norm("mlp.conv", "C 1 k k", leaves) for leaves in _NORMS),
            *(kind for leaves in _NORMS for kind in _branches("mlp.conv", leaves)),
        )
    ),
]


def _around_mixers(halves: str) -> list[Kind]:
    """Norms and scales of a block; both halves have the same."""
    return [
        _merged(
            *(_norm(f"norm{half}", leaves) for half in halves),
            *({f"{scale}{half}.scale": "C"} for scale in scales for half in halves),
        )
        for leaves in _NORMS
        for scales in ((), ("layer_scale",), ("res_scale",), ("layer_scale", "res_scale"))
    ]


# All of a block but its token mixer.
_AROUND_TOKEN_MIXER = [*_each(_around_mixers("12"), _CHANNEL_MIXERS), *_around_mixers("1")]


def _downsamplings(stem: Kind, between: Kind) -> Kind:
    """The stem and the three downsamplings, which are alike; ``{i}`` is the stage behind."""
    return _merged(
        {f"0.{name}": shape for name, shape in stem.items()},
        *(
            {f"{i}.{name}": shape.format(i=i, before=i - 1) for name, shape in between.items()}
            for i in range(1, NUM_STAGES)
        ),
    )


_DOWNSAMPLINGS: list[Kind] = [
    kind
    for leaves in _NORMS
    for kind in (
        # PoolFormer and, with norms, the MetaFormer baselines.
        _downsamplings(
            _merged(_conv("conv", "C0 I a a"), _norm("post_norm", leaves, "C0")),
            _merged(
                _norm("pre_norm", leaves, "C{before}"), _conv("conv", "C{i} C{before} k k")
            ),
        ),
        # FFNet.
        _downsamplings(
            _merged(
                _conv_norm("conv1", "S I a a", leaves), _conv_norm("conv2", "C0 S b b", leaves)
            ),
            _merged(
                _conv_norm("conv.branches.0", "C{i} 1 k k", leaves),
                _conv_norm("conv.branches.1", "C{i} 1 s s", leaves),
                _conv_norm("proj", "C{i} C{i} 1 1", leaves),
            ),
        ),
        # FFNet_seg.
        _downsamplings(
            _merged(
                _conv_norm("conv1", "S I a a", leaves),
                _conv_norm("conv2", "T S b b", leaves),
                _conv_norm("conv3", "C0 T c c", leaves),
                _conv_norm("conv4", "C0 C0 d d", leaves),
            ),
            _merged(
                _conv_norm("conv", "D{i} C{before} k k", leaves),
                _conv_norm("proj", "C{i} D{i} 1 1", leaves),
            ),
        ),
    )
] + [
    # The last two when they are fused.
    _downsamplings(
        _merged(_conv("conv1", "S I a a"), _conv("conv2", "C0 S b b")),
        _merged(_conv("conv", "C{i} 1 k k"), _conv("proj", "C{i} C{i} 1 1")),
    ),
    _downsamplings(
        _merged(
            _conv("conv1", "S I a a"),
            _conv("conv2", "T S b b"),
            _conv("conv3", "C0 T c c"),
            _conv("conv4", "C0 C0 d d"),
        ),
        _merged(_conv("conv", "D{i} C{before} k k"), _conv("proj", "C{i} D{i} 1 1")),
    ),
]  # fmt: skip

_PATCH_STEMS = _each(
    [_conv("conv", "C I a a")], _activations("act"), [_norm("norm", leaves) for leaves in _NORMS]
)
_POSITION_EMBEDDINGS: list[Kind] = [{"pos_embed": "1 C g g"}]
_OUTPUT_NORMS = [
    {leaf: "" if leaf == _STATISTICS[-1] else "C" for leaf in leaves} for leaves in _NORMS[1:]
]


def _doublings(number: int) -> Kind:
    """A level of a pyramid: transposed convolutions, a norm and an activation between two."""
    widths = ["C", *"DEFGHJ"]
    return _merged(
        *(
            {f"{3 * i}.weight": f"{wide} {narrow} 2 2", f"{3 * i}.bias": narrow}
            for i, (wide, narrow) in enumerate(pairwise(widths[: number + 1]))
        ),
        *(_norm(str(3 * i + 1), _NORMS[2], widths[i + 1]) for i in range(number - 1)),
    )


_PYRAMID_LEVELS = [_doublings(number) for number in range(1, 7)]

_LINEAR_CLASSIFIER = _conv("fc", "K C")
_MLP_CLASSIFIER = _merged(
    _conv("fc1", "H C"), _norm("hidden_norm", _NORMS[2], "H"), _conv("fc2", "K H")
)


def check_network(own: Mapping[str, Tensor]) -> int:
    """See to it that nothing of a backbone is missing and that all shapes belong together.

    What dense prediction adds may be missing: each output norm and each level of a pyramid.

    Args:
        own: The tensors under the backbone's own names.

    Returns:
        The channels of the last stage.

    Raises:
        WeightsError: If something is missing, is of no network, or has a shape that does not
            belong to the others.
    """
    parts = _parts({name: tuple(tensor.shape) for name, tensor in own.items()})
    if "stem" in parts:
        dim = _check_part("stem", parts["stem"], _PATCH_STEMS)["C"]
        widths = [dim] * NUM_STAGES
        blocks = list(_numbered("blocks", parts).items())
        ends = [len(blocks) * i // NUM_STAGES for i in range(NUM_STAGES + 1)]
        stages = [dict(blocks[start:end]) for start, end in pairwise(ends)]
    else:
        sides = _check_part("downsample_layers", parts.get("downsample_layers", {}), _DOWNSAMPLINGS)
        widths = [sides[f"C{i}"] for i in range(NUM_STAGES)]
        stages = [_numbered(f"stages.{i}", parts) for i in range(NUM_STAGES)]
    _check_blocks(stages, widths)
    _check_beside_blocks(parts, widths)
    known = {"stem", "downsample_layers"}.union(*stages)
    known |= {f"{name}{i}" for name in ("norm", "pos_embeds.", "pyramid.levels.") for i in range(4)}
    if odd := sorted(parts.keys() - known):
        raise WeightsError(f"the source is of no known network: none has {odd[:_SHOWN]}")
    return widths[-1]


def check_classifier(classifier: Mapping[str, Tensor], channels: int, *, normed: bool) -> None:
    """As :func:`check_network`, for the classifier behind a backbone.

    Args:
        classifier: The tensors by the names of :mod:`~mmmetaformer.weights.layouts`.
        channels: Channels of the last stage.
        normed: Whether there is a norm in front of the logits.
    """
    norms = [_norm("norm", leaves) for leaves in (_NORMS[2:] if normed else _NORMS[:1])]
    part = {name: tuple(tensor.shape) for name, tensor in classifier.items()}
    kinds = _each(norms, [_LINEAR_CLASSIFIER, _MLP_CLASSIFIER])
    _check_part("the classifier", part, kinds, {"C": channels})


_PART = re.compile(
    r"(downsample_layers|pos_embeds\.\d+|stages\.\d+\.\d+|stem|blocks\.\d+|norm\d"
    r"|pyramid\.levels\.\d+)\.(.+)"
)


def _parts(shapes: Part) -> dict[str, dict[str, tuple[int, ...]]]:
    """The parts that are looked at as a whole, each with the names within."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        match = _PART.fullmatch(name)
        if match is None:
            raise WeightsError(f"the source is of no known network: none has {name}")
        parts.setdefault(match[1], {})[match[2]] = shape
    return parts


def _numbered(list_name: str, parts: Mapping[str, Part]) -> dict[str, Part]:
    """The blocks of a stage in order, by their full names."""
    pattern = re.compile(rf"{re.escape(list_name)}\.(\d+)")
    numbers = sorted(int(match[1]) for name in parts if (match := pattern.fullmatch(name)))
    absent = sorted(set(range(max(numbers, default=0) + 1)) - set(numbers))
    if absent:
        raise WeightsError(f"the source is not whole: it lacks {list_name}.{absent[0]}.*")
    return {f"{list_name}.{number}": parts[f"{list_name}.{number}"] for number in numbers}


def _check_blocks(stages: Sequence[Mapping[str, Part]], widths: Sequence[int]) -> None:
    """The blocks of a stage are alike, and each half is of a known kind or found several times."""
    halves = []  # of each stage: of token mixers, and of all else
    for stage, width in zip(stages, widths, strict=True):
        _check_alike(stage)
        where, block = next(iter(stage.items()))
        mixer = {name: shape for name, shape in block.items() if name.startswith("token_mixer.")}
        rest = {name: shape for name, shape in block.items() if name not in mixer}
        mixer = {name.removeprefix("token_mixer."): shape for name, shape in mixer.items()}
        halves.append(((f"{where}.token_mixer", mixer), (where, rest), len(stage), width))
    for half, kinds in ((0, _TOKEN_MIXERS), (1, _AROUND_TOKEN_MIXER)):
        count = Counter()
        for *parts, depth, _ in halves:
            count[frozenset(parts[half][1])] += depth
        for *parts, depth, width in halves:
            where, part = parts[half]
            _check_part(
                where, part, kinds, {"C": width}, alike=depth, named_alike=count[frozenset(part)]
            )


def _check_alike(stage: Mapping[str, Part]) -> None:
    usual = Counter(frozenset(block) for block in stage.values()).most_common(1)[0][0]
    for where, block in stage.items():
        if absent := sorted(usual - block.keys()):
            raise WeightsError(
                f"the source is not whole: {where} lacks {absent[:_SHOWN]}, which other blocks of "
                "its stage have"
            )
        if odd := sorted(block.keys() - usual):
            raise WeightsError(
                f"{where} has {odd[:_SHOWN]}, which other blocks of its stage do not have"
            )
    for name in sorted(usual):
        shapes = Counter(block[name] for block in stage.values())
        for where, block in stage.items():
            if block[name] != (shape := shapes.most_common(1)[0][0]):
                raise WeightsError(
                    f"{where}.{name} has the shape {block[name]}, {shape} in other blocks of its "
                    "stage: that fits no network"
                )


def _check_beside_blocks(parts: Mapping[str, Part], widths: Sequence[int]) -> None:
    """Position embeddings, and what dense prediction adds."""
    norms = {frozenset(part) for name, part in parts.items() if name.startswith("norm")}
    if len(norms) > 1:
        raise WeightsError("the source is not whole: its output norms do not hold the same")
    for stage, width in enumerate(widths):
        for name, kinds in (
            (f"norm{stage}", _OUTPUT_NORMS),
            (f"pos_embeds.{stage}", _POSITION_EMBEDDINGS),
            (f"pyramid.levels.{stage}", _PYRAMID_LEVELS),
        ):
            if name in parts:
                _check_part(name, parts[name], kinds, {"C": width})


def _check_part(
    where: str,
    part: Part,
    kinds: Sequence[Kind],
    sides: Sides | None = None,
    *,
    alike: int = 1,
    named_alike: int = 1,
) -> Sides:
    """See to it that a part is whole.

    Args:
        where: Its name.
        part: Shapes by the names within.
        kinds: Those that are known.
        sides: The sides that are known.
        alike: How often a part of these names and shapes is found.
        named_alike: How often one of these names.

    Returns:
        The sides of the kind that fits.

    Raises:
        WeightsError: If it lacks something, or is of no known kind and found only once.
    """
    lacking: list[str] = []
    for kind in kinds:
        fitting = _fit(part, kind, sides or {}) if part.keys() <= kind.keys() else None
        if fitting is None:
            continue
        absent = sorted(kind.keys() - part.keys())
        if not absent:
            return fitting
        lacking = absent if not lacking or len(absent) < len(lacking) else lacking
    if lacking:
        raise WeightsError(f"the source is not whole: {where} lacks {lacking[:_SHOWN]}")
    nearest = max(kinds, key=lambda kind: (len(kind.keys() & part.keys()), -len(kind)))
    odd = sorted(part.keys() - nearest.keys())
    if alike > 1 or (odd and named_alike > 1):
        return {}
    if odd:
        raise WeightsError(f"{where} has {odd[:_SHOWN]}, which no part that is known has")
    shapes = ", ".join(f"{name} {shape}" for name, shape in list(part.items())[:_SHOWN])
    raise WeightsError(f"the shapes in {where} do not belong together ({shapes}): no network fits")


def _fit(part: Part, kind: Kind, known: Sides) -> Sides | None:
    """What the letters of a kind stand for; None if the shapes are not of this kind."""
    sides = dict(known)
    for name, shape in part.items():
        expected = kind[name].split()
        if len(expected) != len(shape):
            return None
        for side, size in zip(expected, shape, strict=True):
            factor, letter = re.fullmatch(r"(\d*)(\D\d*)?", side).groups()
            times = int(factor or 1)
            if letter is not None:
                times *= sides.setdefault(letter, size // times)
            if times != size:
                return None
    return sides
