"""State dicts that were changed at random: none loads as if it were whole.

Each checkpoint is that of a true layout. It is changed one to three times: tensors are dropped,
renamed, added, reshaped, or swapped with one of another shape. Whatever takes it must then raise,
or the changes have to be among those that cannot matter, which are written down here
(``harmless``), and what is loaded has to be the same. Two tensors of one shape that change places
are not tried: names and shapes do not tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmmetaformer import convert_classifier_state_dict, export_state_dict
from mmmetaformer.weights import WeightsError, load_pretrained, networks
from mmmetaformer.weights.convert import convert
from mmmetaformer.weights.layouts import LAYOUTS

State = dict[str, Tensor]

# Each layout, ours for each family that has no other.
CHECKPOINTS = [
    "poolformer", "poolformer retinanet", "poolformer mmpretrain", "poolformer timm",
    "metaformer ppaa", "metaformer ppff", "metaformer ppaa own", "randformer", "convformer",
    "caformer", "caformer timm", "caformer own", "ffnet", "ffnet detector", "ffnet seg",
    "convmixer", "convmixer timm", "convmixer mmpretrain", "convmixer own", "mixer timm",
    "mixer mmpretrain", "mixer own",
]  # fmt: skip
SETTINGS = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Not built for each example; nothing is loaded into them.
_BACKBONES: dict[str, nn.Module] = {}
_CLASSIFIERS: dict[str, nn.Module] = {}


@pytest.fixture(autouse=True, scope="module")
def networks_are_built_once():
    """Those that a source is compared with: the examples have few sizes."""
    built: dict[str, nn.Module] = {}
    build = networks._build

    def build_once(*args, **options) -> nn.Module:
        key = repr((args, options))
        if key not in built:
            built[key] = build(*args, **options)
        return built[key]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(networks, "_build", build_once)
        yield


OUTPUTS = r"norm[0-9]\.\w+|pyramid\.levels\..+"


def squeezed(tensor: Tensor | None) -> tuple[int, ...] | None:
    """A shape without the sides that linear weights and factors may have or not."""
    if tensor is None:
        return None
    shape = tuple(tensor.shape)
    return shape[:-2] if len(shape) > 2 and shape[-2:] == (1, 1) else shape


def another_name(draw: Callable, name: str) -> str:
    """One with another number or another end."""
    numbers = [match.span() for match in re.finditer(r"\d+", name)]
    if not numbers or draw(st.booleans()):
        return name + draw(st.sampled_from(["_x", ".weight", "0"]))
    start, end = draw(st.sampled_from(numbers))
    return f"{name[:start]}{draw(st.integers(0, 12))}{name[end:]}"


def another_shape(draw: Callable, tensor: Tensor) -> Tensor:
    kinds = ["longer", "flat", "narrow", "turned"]
    kind = draw(st.sampled_from(kinds))
    if kind == "flat" and tensor.ndim > 1:
        return tensor.flatten()
    if kind == "narrow" and tensor.ndim:
        # Not of the second: a stem may be that of images of other channels.
        return tensor[:-1]
    if kind == "turned" and tensor.ndim > 1 and tensor.shape[0] != tensor.shape[1]:
        return tensor.transpose(0, 1)
    return tensor[None]


@st.composite
def changed(draw: Callable, state: State) -> State:
    state = dict(state)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(list(state)))
        kind = draw(st.sampled_from(["drop", "rename", "add", "reshape", "swap"]))
        if kind == "drop":
            del state[name]
        elif kind == "reshape":
            state[name] = another_shape(draw, state[name])
        elif kind == "swap":
            other = draw(st.sampled_from(list(state)))
            state[name], state[other] = state[other], state[name]
        else:
            new = another_name(draw, name)
            if new not in state:
                state[new] = state.pop(name) if kind == "rename" else state[name].clone()
    return state


def differences(before: State, after: State) -> set[str]:
    """The names that are there no longer, that are new, and those of another shape."""
    names = before.keys() | after.keys()
    return {n for n in names if squeezed(before.get(n)) != squeezed(after.get(n))}


def assume_no_exchange(before: State, after: State) -> None:
    """What loads may have tensors of one shape in each other's places."""
    names = before.keys() & after.keys() - differences(before, after)
    assume(all(before[name] is after[name] for name in names))


@pytest.mark.parametrize("name", CHECKPOINTS)
@SETTINGS
@given(data=st.data())
def test_loading(name, data, checkpoints):
    """Into a backbone."""
    published = checkpoints[name]
    if name not in _BACKBONES:
        _BACKBONES[name] = published.build()
    state, backbone = published.state(), _BACKBONES[name]
    after = data.draw(changed(state))
    touched = differences(state, after)
    assume(touched)
    inside = {n.removeprefix(published.prefix) for n in touched if n.startswith(published.prefix)}
    # What is outside of the backbone, its classifier and what only dense prediction has.
    harmless = rf"(?:head\d?|norm|ln1)\.\w.*|{OUTPUTS}"
    if name == "convmixer":
        harmless = r"\d+\.(?:weight|bias)"  # its classifier has but a number
    clean = convert(state, backbone)
    try:
        result = convert(after, backbone)
    except WeightsError:
        return
    assume_no_exchange(state, after)
    assert all(re.fullmatch(harmless, n) for n in inside), inside
    outputs = {own for own in clean.state_dict if re.fullmatch(OUTPUTS, own)}
    for own in clean.state_dict.keys() - outputs:
        assert torch.equal(result.state_dict[own], clean.state_dict[own]), own
    # An output is there as a whole, or said to be new.
    assert result.state_dict.keys() | set(result.new) == backbone.state_dict().keys()
    for part in {part_of(own) for own in result.new}:
        assert not [own for own in result.state_dict if part_of(own) == part]
    # No change is passed over: what is not loaded is in the account.
    accounted = {n for names in result.dropped.values() for n in names}
    assert len(after) == len(result.state_dict) + len(accounted)


def part_of(own: str) -> str:
    return re.match(r"(?:pyramid\.levels\.)?\w+", own).group()


@pytest.mark.parametrize("name", CHECKPOINTS)
@SETTINGS
@given(data=st.data())
def test_exporting(name, data, checkpoints):
    """Nothing but names and shapes tells what a whole network is. Stages have several blocks, as
    all published ones."""
    published = checkpoints[name]
    state = published.state(deeper=2)
    drop = name == "ffnet seg"  # whose classifier has no place
    clean = export_state_dict(state, "mmmetaformer", drop_classifier=drop)
    after = data.draw(changed(state))
    touched = differences(state, after)
    assume(touched)
    # What stands beside a backbone without a classifier, outputs, and with a position embedding
    # of our own layout goes a network with one.
    harmless = rf"{OUTPUTS}|pos_embeds\.\d\.pos_embed"
    inside = {n.removeprefix(published.prefix) for n in touched if n.startswith(published.prefix)}
    beside = {n for n in touched if not n.startswith(published.prefix)}
    try:
        result = export_state_dict(after, "mmmetaformer", drop_classifier=drop)
    except WeightsError:
        return
    assume_no_exchange(state, after)
    if drop:
        inside = {n for n in inside if not n.startswith("head")}
    classifier = classifier_of(published)
    if classifier and not classifier & after.keys():
        # Without its classifier it is a backbone.
        inside, beside = ({n for n in names if n not in classifier} for names in (inside, beside))
        clean = {n.removeprefix("backbone."): t for n, t in clean.items()}
    assert all(re.fullmatch(harmless, n) for n in inside), inside
    assert not any(n.startswith(("head.", "neck.")) for n in beside - published.beside.keys())
    for own in result:
        assert torch.equal(result[own], clean[own]), own
    lost = clean.keys() - result.keys()
    assert all(re.fullmatch(rf"{harmless}|head\..+", own.removeprefix("backbone.")) for own in lost)


def classifier_of(published) -> set[str]:
    """Names of what makes the logits, without the norm in front of them."""
    names = {published.prefix + name for name in published.classifier} | published.beside.keys()
    return {name for name in names if re.fullmatch(r"(head\.|\d+\.).+", name)}


WITH_CLASSIFIER = [
    "poolformer mmpretrain", "poolformer timm", "metaformer ppaa", "randformer", "convformer",
    "caformer timm", "ffnet", "convmixer", "convmixer mmpretrain", "mixer timm",
]  # fmt: skip


@pytest.mark.parametrize("name", WITH_CLASSIFIER)
@settings(SETTINGS, max_examples=8)
@given(data=st.data())
def test_loading_classifiers(name, data, checkpoints, build_classifier):
    """Here everything counts."""
    published = checkpoints[name]
    if name not in _CLASSIFIERS:
        _CLASSIFIERS[name] = build_classifier(published)
    state, model = published.state(), _CLASSIFIERS[name]
    assert len(convert_classifier_state_dict(state, model)) == len(model.state_dict())
    after = data.draw(changed(state))
    assume(differences(state, after))
    with pytest.raises(WeightsError):
        convert_classifier_state_dict(after, model)


@pytest.mark.parametrize("name", ["poolformer", "caformer timm", "convmixer", "mixer own"])
@settings(SETTINGS, max_examples=10)
@given(data=st.data())
def test_files(name, data, checkpoints, tmp_path):
    """From a file all is loaded that can be, or nothing."""
    published = checkpoints[name]
    backbone, state = published.build(), published.state()
    with torch.no_grad():
        for tensor in backbone.state_dict().values():
            tensor.zero_()
    torch.save(data.draw(changed(state)), tmp_path / "w.pth")
    try:
        report = load_pretrained(backbone, tmp_path / "w.pth")
    except WeightsError as error:
        assert "w.pth" in str(error)
        assert not any(tensor.any() for tensor in backbone.state_dict().values())
        return
    for own, tensor in backbone.state_dict().items():
        assert tensor.any() == (own not in report.conversion.new), own


def test_every_layout_is_tried(checkpoints):
    assert {checkpoints[name].layout for name in CHECKPOINTS} == {
        layout.name for layout in LAYOUTS if layout.signature
    }
