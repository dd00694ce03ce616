"""Every way in which a checkpoint reaches a model: the containers that each takes, and that each
says in one sentence what is wrong with a file, runs nothing of it and copies nothing.

``init_detector`` and ``init_model`` read files by mmengine itself, which importing this package
does not change."""

from __future__ import annotations

import copy
import os
import pickle
import re
import runpy
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import mmdet.apis.inference
import mmseg.apis.inference
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import save_file
from torch import Tensor, nn

from mmmetaformer import ConvFormer, MetaFormer, PoolFormer
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import replace_sync_bn
from mmmetaformer.engine.runner import ToolRunner
from mmmetaformer.variants import VARIANTS
from mmmetaformer.weights import WeightsError, export_state_dict

ROOT = Path(__file__).resolve().parents[2]
DIMS = [8, 12, 16, 20]
TINY = dict(depths=[1, 1, 1, 1], dims=DIMS)
# What no initialisation gives.
MARK = 7.25
State = dict[str, Tensor]

# ---------------------------------------------------------------- models


@cache
def read_config(name: str) -> Config:
    """The recipe of a small model without weights of its own."""
    cfg = Config.fromfile(ROOT / "configs/poolformer" / name)
    cfg.model.backbone.update(arch=copy.deepcopy(TINY), init_cfg=None)
    return cfg


def detection() -> Config:
    cfg = copy.deepcopy(read_config("retinanet_poolformer-s12_fpn_1x_coco.py"))
    cfg.model.neck.update(in_channels=DIMS[1:], out_channels=8)
    cfg.model.bbox_head.update(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=5)
    return cfg


def segmentation() -> Config:
    cfg = copy.deepcopy(read_config("poolformer-s12_fpn_8xb4-40k_ade20k-512x512.py"))
    cfg.model.neck.update(in_channels=DIMS, out_channels=8)
    cfg.model.decode_head.update(in_channels=[8] * 4, channels=8)
    replace_sync_bn(cfg.model)
    return cfg


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


MODEL_KINDS = dict(
    backbone=lambda: MetaFormer(TINY),
    detection=lambda: build(detection()),
    segmentation=lambda: build(segmentation()),
)


@cache
def shapes(kind: str) -> dict[str, tuple]:
    """Names and shapes of a model: what its own file holds."""
    return {name: tensor.shape for name, tensor in MODEL_KINDS[kind]().state_dict().items()}


def is_marked(tensor: Tensor) -> Tensor:
    return tensor == (MARK if tensor.is_floating_point() else int(MARK))


# ---------------------------------------------------------------- entry points


@dataclass
class EntryPoint:
    """One of the ways.

    Attributes:
        load: Brings a file into a model, which is appended to a list before.
        kind: What the model is.
        reads_files: Whether this package reads the file, and not mmengine.
    """

    load: Callable[[Path, list[nn.Module], pytest.MonkeyPatch], None]
    kind: str = "backbone"
    reads_files: bool = True

    @property
    def prefix(self) -> str:
        return "" if self.kind == "backbone" else "backbone."

    def state(self) -> State:
        """What the model saves, with the mark in the place of values."""
        return {n: torch.full(s, MARK) for n, s in shapes(self.kind).items()}


def by_init_cfg(file, models, monkeypatch):
    models.append(MetaFormer(TINY, init_cfg=dict(type="Pretrained", checkpoint=str(file))))
    models[0].init_weights()


def by_tag(file, models, monkeypatch):
    monkeypatch.setenv("MMMETAFORMER_WEIGHTS", str(file.parent))
    # A small network of that name, so that the file is small, too.
    small = {**VARIANTS["poolformer_s12"], **TINY}
    monkeypatch.setitem(VARIANTS, "poolformer_s12", small)
    os.link(file, file.with_name("poolformer_s12.pth.tar"))
    models.append(PoolFormer("s12", pretrained="in1k"))
    models[0].init_weights()


def by_runner(use: str) -> Callable:
    """As the tools: by a runner with their hook."""

    def load(file, models, monkeypatch):
        models.append(build(detection()))
        hook = dict(type="mmmetaformer.engine.hooks.CompleteCheckpointHook", use=use)
        ToolRunner(
            models[0], str(file.parent / "work"), custom_hooks=[hook], default_scope="mmdet",
            log_level="ERROR", experiment_name=uuid.uuid4().hex,
        ).load_checkpoint(str(file))  # fmt: skip

    return load


def by_inference(module, init: str, cfg: Callable[[], Config]) -> Callable:
    """By ``init_detector`` or ``init_model``, nothing of ours having been called before."""

    def load(file, models, monkeypatch):
        def building(model_cfg):
            models.append(MODELS.build(model_cfg))
            return models[0]

        monkeypatch.setattr(module, "MODELS", SimpleNamespace(build=building))
        given = cfg()
        given.model.backbone.pop("init_cfg", None)
        model = getattr(module, init)(given, str(file), device="cpu")
        assert model is models[0] and model.dataset_meta["classes"]

    return load


ENTRY_POINTS = {
    "Pretrained": EntryPoint(by_init_cfg),
    "pretrained=": EntryPoint(by_tag),
    "load_from": EntryPoint(by_runner("load_from"), "detection"),
    "tools/test.py": EntryPoint(by_runner("test"), "detection"),
    "init_detector": EntryPoint(
        by_inference(mmdet.apis.inference, "init_detector", detection), "detection", False
    ),
    "init_model": EntryPoint(
        by_inference(mmseg.apis.inference, "init_model", segmentation), "segmentation", False
    ),
}
READING = [name for name, entry_point in ENTRY_POINTS.items() if entry_point.reads_files]


# ---------------------------------------------------------------- containers


def prefixed(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def as_mmengine_saves(state: State) -> dict:
    return dict(state_dict=state, meta=dict(epoch=3))


# What mmdet's and mmseg's functions look into.
PLAIN_CONTAINERS: dict[str, Callable[[State], dict]] = {
    "state_dict": as_mmengine_saves,
    "DDP": lambda state: as_mmengine_saves(prefixed(state)),
    "float16": lambda state: as_mmengine_saves({n: t.half() for n, t in state.items()}),
    "float64": lambda state: as_mmengine_saves({n: t.double() for n, t in state.items()}),
}
CONTAINERS: dict[str, Callable[[State], object]] = {
    "bare": dict,
    "ordered": OrderedDict,
    "without meta": lambda state: dict(state_dict=state, meta=None, epoch=3),
    "model": lambda state: dict(model=state, optimizer={}, args=None),
    "nested": lambda state: dict(model=dict(state_dict=state)),
    "module": lambda state: dict(module=state),
    "averaged": lambda state: dict(state_dict_ema=state),
}


def check_loaded(entry_point: EntryPoint, path: Path, monkeypatch) -> None:
    models: list[nn.Module] = []
    entry_point.load(path, models, monkeypatch)
    held = models[0].state_dict()
    assert held.keys() == shapes(entry_point.kind).keys()
    assert [name for name, tensor in held.items() if not is_marked(tensor).all()] == []
    assert {tensor.dtype for tensor in held.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("container", PLAIN_CONTAINERS)
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_containers_that_mmengine_reads(name, container, tmp_path, monkeypatch):
    entry_point = ENTRY_POINTS[name]
    torch.save(PLAIN_CONTAINERS[container](entry_point.state()), tmp_path / "file.pth")
    check_loaded(entry_point, tmp_path / "file.pth", monkeypatch)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", READING)
def test_other_containers(name, container, tmp_path, monkeypatch):
    entry_point = ENTRY_POINTS[name]
    torch.save(CONTAINERS[container](entry_point.state()), tmp_path / "file.pth")
    check_loaded(entry_point, tmp_path / "file.pth", monkeypatch)


@pytest.mark.parametrize("name", ["init_detector", "init_model"])
def test_containers_that_mmengine_does_not_look_into(name, tmp_path, monkeypatch):
    """It would leave the backbone random, and log a list of names."""
    torch.save(dict(model=ENTRY_POINTS[name].state(), meta={}), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="there is none of its tensors"):
        ENTRY_POINTS[name].load(tmp_path / "file.pth", [], monkeypatch)


# The file of the tag is a .pth.tar.
@pytest.mark.parametrize("name", [name for name in READING if name != "pretrained="])
def test_safetensors(name, tmp_path, monkeypatch):
    save_file(ENTRY_POINTS[name].state(), tmp_path / "file.safetensors")
    check_loaded(ENTRY_POINTS[name], tmp_path / "file.safetensors", monkeypatch)


# ---------------------------------------------------------------- files that are wrong


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@dataclass(frozen=True)
class Wrong:
    """A way for a file to be wrong.

    Attributes:
        message: What is said of it.
        write: Makes the file of the model's own weights.
    """

    message: str
    write: Callable[[Path, State, str], None] = field(repr=False)


def bytes_of(content: bytes) -> Callable:
    return lambda path, state, prefix: path.write_bytes(content)


def truncated(path: Path, state: State, prefix: str) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_code(path: Path, state: State, prefix: str) -> None:
    torch.save(dict(state_dict=state, hook=Malicious(path.with_name("owned"))), path)


def pickled(path: Path, state: State, prefix: str) -> None:
    """Not by torch: in a protocol that it does not write."""
    path.write_bytes(pickle.dumps(dict(state_dict=state, hook=Malicious(path.with_name("owned")))))


def changed(change: Callable[[State], State]) -> Callable:
    """A file with other weights of the backbone."""

    def write(path: Path, state: State, prefix: str) -> None:
        backbone = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        rest = {n: t for n, t in state.items() if not n.startswith(prefix)} if prefix else {}
        weights = rest | {prefix + n: t for n, t in change(backbone).items()}
        torch.save(as_mmengine_saves(weights), path)

    return write


def of(model: nn.Module) -> Callable[[State], State]:
    weights = {name: torch.full_like(t, MARK) for name, t in model.state_dict().items()}
    return lambda state: weights


def without(name: str) -> Callable[[State], State]:
    return lambda state: {n: t for n, t in state.items() if n != name}


def with_tensor(name: str, make: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, name: make(state.get(name, torch.full((4,), MARK)))}


def not_a_number(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float("nan")
    return tensor


BIAS, WEIGHT = "stages.2.0.mlp.fc1.bias", "stages.2.0.mlp.fc1.weight"

# Of any file.
UNREADABLE = {
    "truncated": Wrong("it is cut off", truncated),
    "empty": Wrong("it is empty", bytes_of(b"")),
    "text": Wrong("it is none that torch.save wrote", bytes_of(b"no checkpoint at all")),
    "an answer": Wrong("it is none that torch.save wrote", bytes_of(b'{"message": "no"}')),
    # Before torch 2.6 it is refused for what it names.
    "pickle": Wrong("it is none that torch.save wrote|is no plain checkpoint of tensors", pickled),
    "git-lfs": Wrong(
        "it is a pointer of git-lfs", bytes_of(b"version https://git-lfs.github.com/spec/v1")
    ),
    "web page": Wrong("it is a web page", bytes_of(b"\n<!DOCTYPE html><html>404</html>")),
    "code": Wrong("it was not loaded", with_code),
    "no weights": Wrong(
        "no tensors", lambda path, state, prefix: torch.save(dict(epoch=3, optimizer={}), path)
    ),
}
# Of a file for a certain model.
UNFIT = {
    "another family": Wrong("fit this", changed(of(ConvFormer(TINY)))),
    "another package": Wrong("unknown layout", changed(of(nn.Sequential(nn.Linear(2, 2))))),
    "another size": Wrong("of another shape", changed(of(PoolFormer(dict(TINY, dims=[9] * 4))))),
    "deeper": Wrong("10 unexpected: stages.2.1", changed(of(PoolFormer(dict(TINY,
                    depths=[1, 1, 2, 1]))))),
    "renamed": Wrong("1 missing: stages.*1 unexpected",
                     changed(lambda s: {n.replace(BIAS, f"{BIAS}x"): t for n, t in s.items()})),
    "missing": Wrong(f"1 missing: {BIAS}", changed(without(BIAS))),
    # By its name a layout is known.
    "stem missing": Wrong("1 missing: downsample_layers.0.conv.weight|unknown layout",
                          changed(without("downsample_layers.0.conv.weight"))),
    "extra": Wrong("1 unexpected: stages.2.0.more",
                   changed(with_tensor("stages.2.0.more", Tensor.clone))),
    "reshaped": Wrong(f"1 of another shape: {BIAS}",
                      changed(with_tensor(BIAS, lambda t: torch.full((3,), MARK)))),
    "not a number": Wrong(f"1 of unusable values: {WEIGHT} holds NaN",
                          changed(with_tensor(WEIGHT, not_a_number))),
    "infinite": Wrong(f"1 of unusable values: {BIAS} holds NaN or inf",
                      changed(with_tensor(BIAS, lambda t: t / 0))),
    "whole numbers": Wrong(f"1 of unusable values: {WEIGHT} is of torch.int64",
                           changed(with_tensor(WEIGHT, Tensor.long))),
}  # fmt: skip
# In the names of PoolFormer's release, which are converted.
PUBLISHED = {
    "published, missing": Wrong("1 missing: stages.1.0.norm1.weight",
                                changed(lambda s: without("network.2.0.norm1.weight")(
                                    export_state_dict(s, "published")))),
    "published, not a number": Wrong("1 of unusable values: network.2.0.norm1.weight holds NaN",
                                     changed(lambda s: with_tensor("network.2.0.norm1.weight",
                                             not_a_number)(export_state_dict(s, "published")))),
}  # fmt: skip


WRONG = [
    (name, wrong)
    for name, entry_point in ENTRY_POINTS.items()
    for wrong in ([*UNREADABLE] if entry_point.reads_files else []) + [*UNFIT, *PUBLISHED]
]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_wrong_files(name, wrong, tmp_path, monkeypatch):
    entry_point, case = ENTRY_POINTS[name], (UNREADABLE | UNFIT | PUBLISHED)[wrong]
    path = tmp_path / "file.pth"
    case.write(path, entry_point.state(), entry_point.prefix)
    models: list[nn.Module] = []
    with pytest.raises((WeightsError, UserError), match=case.message) as caught:
        entry_point.load(path, models, monkeypatch)
    assert "\n" not in str(caught.value)
    where = {"pretrained=": "poolformer_s12.pth.tar"}.get(name, "file.pth")
    assert (where if entry_point.reads_files else "the checkpoint") in str(caught.value)
    held = models[0].state_dict()
    assert not any(is_marked(t).any() for t in held.values() if t.is_floating_point())
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("wrong", UNREADABLE)
def test_wrong_files_are_not_converted(wrong, tmp_path, monkeypatch, capsys):
    path, target = tmp_path / "file.pth", tmp_path / "target.pth"
    UNREADABLE[wrong].write(path, ENTRY_POINTS["Pretrained"].state(), "")
    monkeypatch.setattr("sys.argv", ["convert", str(path), str(target), "--to", "published"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(ROOT / "tools/convert_weights.py"), run_name="__main__")
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and re.search(UNREADABLE[wrong].message, line)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.pth"]
