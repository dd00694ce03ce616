"""Detectors and segmentors trained with mmdet 2 and mmseg 0: their names written out here by what
mmdet 2.19 and 2.28 and mmseg 0.19 and 0.27 build, and read into the recipes of this package."""

from __future__ import annotations

import copy
import uuid
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import init_detector
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner.checkpoint import load_checkpoint, load_state_dict
from mmseg.apis import init_model
from torch import Tensor, nn

from mmmetaformer import PoolFormer, switch_to_deploy
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.hooks import CompleteCheckpointHook
from mmmetaformer.engine.launch import replace_sync_bn
from mmmetaformer.engine.runner import ToolRunner
from mmmetaformer.weights import WeightsError, trained
from mmmetaformer.weights.layouts import HEAD_LAYOUTS

ROOT = Path(__file__).resolve().parents[2]
Names = Iterator[tuple[str, str]]
DIMS, DEPTHS = [8, 16, 32, 64], (1, 1, 2, 1)  # those of the PoolFormers in conftest.py
ARCH = dict(_delete_=True, depths=list(DEPTHS), dims=DIMS)
WIDTH = 16

# ---------------------------------------------------------------- names within backbones


def same(*names: str) -> Names:
    """Names that are what they were."""
    yield from ((name, name) for name in names)


def affine(name: str, own: str | None = None) -> Names:
    for leaf in ("weight", "bias"):
        yield f"{name}.{leaf}", f"{own or name}.{leaf}"


def batch_norm(name: str, own: str | None = None) -> Names:
    for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{name}.{leaf}", f"{own or name}.{leaf}"


def pair(name: str, own: str) -> Names:
    """FFNet's pair of a convolution without bias and its norm, in either order."""
    yield f"{name}.c.weight", f"{own}.conv.weight"
    yield from batch_norm(f"{name}.bn", f"{own}.norm")


def two_kernels(name: str, own: str) -> Names:
    yield from pair(f"{name}.conv", f"{own}.branches.0")
    yield from pair(f"{name}.conv1", f"{own}.branches.1")


def with_strips(name: str, own: str, small: bool) -> Names:
    """A kernel, a small one beside it where it is more than 3, and its row and column."""
    parts = ("conv1", *(["conv2"] if small else []), "strip_conv1", "strip_conv2")
    for number, part in enumerate(parts):
        yield from pair(f"{name}.{part}", f"{own}.branches.{number}")


def scales(block: str, own: str) -> Names:
    yield f"{block}.token_mixer.0.layer_scale", f"{own}.layer_scale1.scale"
    yield f"{block}.channel_mixer.layer_scale", f"{own}.layer_scale2.scale"


def ffnet(layer_scale: bool) -> Names:
    """FFNet-2 and, with LayerScale, FFNet-3: kernels of 3 and 7, and an output norm each stage."""
    yield from pair("patch_embed.0", "downsample_layers.0.conv1")
    yield from pair("patch_embed.2", "downsample_layers.0.conv2")
    for stage, depth in enumerate(DEPTHS):
        if stage:
            merging = f"stages.{stage}.0.proj"
            yield from two_kernels(f"{merging}.0", f"downsample_layers.{stage}.conv")
            yield from pair(f"{merging}.1.conv", f"downsample_layers.{stage}.proj")
        for j in range(depth):
            block, own = f"stages.{stage}.{j + (stage > 0)}", f"stages.{stage}.{j}"
            main = f"{block}.token_mixer.0.main"
            yield from pair(f"{main}.fc", f"{own}.token_mixer.query")
            for theirs, ours in (("conv1", "key"), ("conv2", "value")):
                depthwise = affine if stage < 2 else two_kernels
                yield from depthwise(f"{main}.{theirs}", f"{own}.token_mixer.{ours}")
            main = f"{block}.channel_mixer.main"
            yield from two_kernels(f"{main}.conv", f"{own}.mlp.conv")
            yield from affine(f"{main}.fc1", f"{own}.mlp.fc1")
            yield from affine(f"{main}.fc2", f"{own}.mlp.fc2")
            if layer_scale:
                yield from scales(block, own)
        yield from affine(f"norm{stage}")


def ffnet_seg() -> Names:
    for theirs, ours in ((0, 1), (2, 2), (4, 3), (5, 4)):
        yield from pair(f"patch_embed.{theirs}", f"downsample_layers.0.conv{ours}")
    for stage, depth in enumerate(DEPTHS):
        if stage:
            yield from pair(f"stages.{stage}.0.proj.0", f"downsample_layers.{stage}.conv")
            yield from pair(f"stages.{stage}.0.proj.2", f"downsample_layers.{stage}.proj")
        for j in range(depth):
            block, own = f"stages.{stage}.{j + (stage > 0)}", f"stages.{stage}.{j}"
            main = f"{block}.token_mixer.0.main"
            yield from pair(f"{main}.fc", f"{own}.token_mixer.query")
            yield from with_strips(f"{main}.conv1", f"{own}.token_mixer.key", stage >= 2)
            yield from with_strips(f"{main}.conv2", f"{own}.token_mixer.value", stage >= 2)
            main = f"{block}.channel_mixer.main"
            yield from pair(f"{main}.conv", f"{own}.mlp.conv")
            yield from affine(f"{main}.fc1", f"{own}.mlp.fc1")
            yield from affine(f"{main}.fc2", f"{own}.mlp.fc2")
            yield from scales(block, own)


# ---------------------------------------------------------------- names within necks and heads


def conv_norm(name: str) -> Names:
    """mmcv's ConvModule with a BatchNorm."""
    yield from same(f"{name}.conv.weight")
    yield from batch_norm(f"{name}.bn")


def fpn(laterals: int = 4, outputs: int = 4) -> Names:
    for i in range(laterals):
        yield from affine(f"neck.lateral_convs.{i}.conv")
    for i in range(outputs):
        yield from affine(f"neck.fpn_convs.{i}.conv")


def retina_head() -> Names:
    for branch in ("cls", "reg"):
        for i in range(4):
            yield from affine(f"bbox_head.{branch}_convs.{i}.conv")
        yield from affine(f"bbox_head.retina_{branch}")


def rpn() -> Names:
    for part in ("conv", "cls", "reg"):
        yield from affine(f"rpn_head.rpn_{part}")


def mask_head(name: str) -> Names:
    for i in range(4):
        yield from affine(f"{name}.convs.{i}.conv")
    yield from affine(f"{name}.upsample")
    yield from affine(f"{name}.conv_logits")


def mask_rcnn_heads() -> Names:
    yield from rpn()
    for part in ("shared_fcs.0", "shared_fcs.1", "fc_cls", "fc_reg"):
        yield from affine(f"roi_head.bbox_head.{part}")
    yield from mask_head("roi_head.mask_head")


def cascade_heads() -> Names:
    yield from rpn()
    for stage in range(3):
        head = f"roi_head.bbox_head.{stage}"
        for i in range(4):
            yield from conv_norm(f"{head}.shared_convs.{i}")
        for part in ("shared_fcs.0", "fc_cls", "fc_reg"):
            yield from affine(f"{head}.{part}")
        yield from mask_head(f"roi_head.mask_head.{stage}")


def fpn_head() -> Names:
    """A convolution for each doubling to stride 4, at least one, with an upsampling behind it."""
    for level, doublings in enumerate((0, 1, 2, 3)):
        for i in range(max(1, doublings)):
            yield from conv_norm(f"decode_head.scale_heads.{level}.{2 * i}")
    yield from affine("decode_head.conv_seg")


def uper_head() -> Names:
    for i in range(4):
        yield from conv_norm(f"decode_head.psp_modules.{i}.1")
    yield from conv_norm("decode_head.bottleneck")
    for i in range(3):
        yield from conv_norm(f"decode_head.lateral_convs.{i}")
        yield from conv_norm(f"decode_head.fpn_convs.{i}")
    yield from conv_norm("decode_head.fpn_bottleneck")
    yield from affine("decode_head.conv_seg")
    yield from conv_norm("auxiliary_head.convs.0")
    yield from affine("auxiliary_head.conv_seg")


def ffnet_head() -> Names:
    for i in (0, 2):
        yield from pair(f"decode_head.squeeze.{i}", f"decode_head.squeeze.{i}")
    for i in range(3):
        block, own = f"decode_head.head_blocks.{i}", f"decode_head.blocks.{i}"
        main = f"{block}.token_mixer.main"
        yield from pair(f"{main}.fc", f"{own}.token_mixer.query")
        yield from with_strips(f"{main}.conv1", f"{own}.token_mixer.key", True)
        yield from with_strips(f"{main}.conv2", f"{own}.token_mixer.value", True)
        main = f"{block}.channel_mixer.main"
        yield from with_strips(f"{main}.conv", f"{own}.mlp.conv", True)
        yield from affine(f"{main}.fc1", f"{own}.mlp.fc1")
        yield from affine(f"{main}.fc2", f"{own}.mlp.fc2")
    yield from pair("decode_head.align.0", "decode_head.widen.0")
    yield from affine("decode_head.conv_seg")


# ---------------------------------------------------------------- the kinds

_DET_META = dict(mmdet_version="2.28.2+e9cae2d", CLASSES=("person", "bicycle", "car"), epoch=12,
                 iter=87960, time="Mon Nov 22 13:37:01 2021", mmcv_version="1.3.18", seed=None,
                 env_info="sys.platform: linux", config="model = dict()\n", exp_name="x.py",
                 hook_msgs=dict(best_score=np.float64(0.373), best_ckpt="a.pth"))  # fmt: skip
_SEG_META = dict(mmseg_version="0.27.0", CLASSES=["wall", "building"], iter=40000,
                 PALETTE=[[120, 120, 120], [180, 120, 120]])  # fmt: skip
_RPN = dict(in_channels=WIDTH, feat_channels=WIDTH)
_ROI = dict(roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0), out_channels=WIDTH)
_BOX = dict(in_channels=WIDTH, fc_out_channels=24)
_MASK = dict(in_channels=WIDTH, conv_out_channels=WIDTH)


# mmengine reads a second of YAML for a recipe.
read_config = cache(Config.fromfile)


@dataclass(frozen=True)
class Kind:
    """One of the published kinds.

    Attributes:
        config: The recipe here.
        small: What makes its model small.
        backbone: Names of the backbone, or those of conftest.py.
        rest: Names of neck and heads.
        meta: What old training saved with the weights.
    """

    config: str
    small: dict
    backbone: Callable[[], Names] | str
    rest: Callable[[], Names]
    meta: dict

    def cfg(self) -> Config:
        cfg = copy.deepcopy(read_config(ROOT / "configs" / self.config))
        cfg.merge_from_dict(dict(model=copy.deepcopy(self.small)))
        return cfg

    def build(self) -> nn.Module:
        """The model, as it is before any weights; SyncBN is BN."""
        cfg = self.cfg()
        replace_sync_bn(cfg.model)
        cfg.model.backbone.init_cfg = None
        init_default_scope(cfg.default_scope)
        return MODELS.build(cfg.model)

    def init(self, checkpoint: Path) -> nn.Module:
        """The model by mmdet's or mmseg's own function."""
        init = init_detector if self.cfg().default_scope == "mmdet" else init_model
        return init(self.cfg(), str(checkpoint), device="cpu")


KINDS = {
    "retinanet": Kind(
        "poolformer/retinanet_poolformer-s12_fpn_1x_coco.py",
        dict(backbone=dict(arch=ARCH), neck=dict(in_channels=DIMS[1:], out_channels=WIDTH),
             bbox_head=_RPN),
        "poolformer retinanet", lambda: (*fpn(3, 5), *retina_head()), _DET_META,
    ),
    "mask rcnn": Kind(
        "poolformer/mask-rcnn_poolformer-s12_fpn_1x_coco.py",
        dict(backbone=dict(arch=ARCH), neck=dict(in_channels=DIMS, out_channels=WIDTH),
             rpn_head=_RPN,
             roi_head=dict(bbox_roi_extractor=_ROI, mask_roi_extractor=_ROI, bbox_head=_BOX,
                           mask_head=_MASK)),
        "poolformer detector", lambda: (*fpn(), *mask_rcnn_heads()), _DET_META,
    ),
    "cascade": Kind(
        "ffnet/cascade-mask-rcnn_ffnet-2_fpn_3x_coco.py",
        dict(backbone=dict(arch=ARCH), neck=dict(in_channels=DIMS, out_channels=WIDTH),
             rpn_head=_RPN,
             roi_head=dict(bbox_roi_extractor=_ROI, mask_roi_extractor=_ROI, mask_head=_MASK,
                           bbox_head={str(i): {**_BOX, "conv_out_channels": WIDTH}
                                      for i in range(3)})),
        lambda: ffnet(False), lambda: (*fpn(), *cascade_heads()), _DET_META,
    ),
    "semantic fpn": Kind(
        "poolformer/poolformer-s12_fpn_8xb4-40k_ade20k-512x512.py",
        dict(backbone=dict(arch=ARCH), neck=dict(in_channels=DIMS, out_channels=WIDTH),
             decode_head=dict(in_channels=[WIDTH] * 4, channels=WIDTH)),
        "poolformer detector", lambda: (*fpn(), *fpn_head()), _SEG_META,
    ),
    "upernet": Kind(
        "ffnet/ffnet-3_upernet_8xb2-160k_ade20k-512x512.py",
        dict(backbone=dict(arch={**ARCH, "layer_scale_init_value": 1.0}),
             decode_head=dict(in_channels=DIMS, channels=WIDTH),
             auxiliary_head=dict(in_channels=DIMS[2], channels=WIDTH)),
        lambda: ffnet(True), uper_head, _SEG_META,
    ),
    "ffnet_seg": Kind(
        "ffnet/ffnet-seg_ffnethead_8xb2-160k_ade20k-512x512.py",
        # What an arch in a dict does not say is FFNet-1's.
        dict(backbone=dict(arch="seg", depths=list(DEPTHS), dims=DIMS),
             decode_head=dict(in_channels=DIMS[1:], channels=WIDTH, head_width=WIDTH)),
        ffnet_seg, ffnet_head, _SEG_META,
    ),
}  # fmt: skip


def value(own: str, like: Tensor) -> Tensor:
    """What a tensor of ours is to hold: told by its name."""
    seed = zlib.crc32(own.encode())
    if not like.is_floating_point():
        return torch.tensor(seed % 1000)
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)) + 0.5


@dataclass(frozen=True)
class Old:
    """An old checkpoint of a kind.

    Attributes:
        kind: Which.
        names: Its names to ours.
        state: Its tensors.
    """

    kind: Kind
    names: dict[str, str]
    state: dict[str, Tensor]

    def save(self, path: Path, **changes: Tensor | None) -> Path:
        """Write it as mmcv 1 did; ``changes`` are tensors by name, None for one to leave out."""
        state = {name: t for name, t in (self.state | changes).items() if t is not None}
        optimizer = dict(state={0: dict(step=87960, exp_avg=torch.ones(2))},
                         param_groups=[dict(lr=1e-4, betas=(0.9, 0.999), params=[0])])  # fmt: skip
        content = dict(meta=self.kind.meta, state_dict=OrderedDict(state), optimizer=optimizer)
        torch.save(content, path)
        return path

    def check(self, model: nn.Module) -> None:
        """Every tensor of the model holds what its name tells."""
        own = model.state_dict()
        assert set(self.names.values()) == set(own)
        wrong = [name for name, held in own.items() if not torch.equal(held, value(name, held))]
        assert wrong == []


@pytest.fixture(autouse=True)
def own_scope(monkeypatch):
    """mmdet's or mmseg's scope is the default of these tests alone."""
    monkeypatch.setattr(DefaultScope, "_instance_dict", DefaultScope._instance_dict.copy())


@pytest.fixture(scope="module")
def olds(checkpoints) -> Callable[[str], Old]:
    cache: dict[str, Old] = {}

    def old(name: str) -> Old:
        if name not in cache:
            kind = KINDS[name]
            if isinstance(kind.backbone, str):
                backbone = checkpoints[kind.backbone].names().items()
            else:
                backbone = ((f"backbone.{theirs}", ours) for theirs, ours in kind.backbone())
            names = {theirs: f"backbone.{ours}" for theirs, ours in backbone} | dict(kind.rest())
            like = kind.build().state_dict()
            state = {theirs: value(ours, like[ours]) for theirs, ours in names.items()}
            for theirs in state:
                if theirs.endswith("channel_mixer.layer_scale") or ".0.layer_scale" in theirs:
                    state[theirs] = state[theirs][:, None, None]
            cache[name] = Old(kind, names, state)
        return cache[name]

    return old


def run(kind: Kind, checkpoint: Path, tmp_path: Path, model: nn.Module | None = None) -> nn.Module:
    """Load as ``tools/test.py``: by its runner with its hook."""
    runner = ToolRunner(
        model or kind.build(),
        str(tmp_path / "work"),
        custom_hooks=[dict(type="mmmetaformer.engine.hooks.CompleteCheckpointHook")],
        default_scope=kind.cfg().default_scope,
        experiment_name=uuid.uuid4().hex,
    )
    runner.load_checkpoint(str(checkpoint))
    return runner.model


# ---------------------------------------------------------------- all of it arrives


@pytest.mark.parametrize("name", KINDS)
def test_through_the_runner(name, olds, tmp_path, capfd):
    old = olds(name)
    assert any(theirs != ours for theirs, ours in old.names.items())
    old.check(run(old.kind, old.save(tmp_path / "old.pth"), tmp_path))
    # What mmengine says of names that are missing, not expected or of another shape.
    assert "do not match" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", KINDS)
def test_through_init_detector_and_init_model(name, olds, tmp_path, capfd):
    old = olds(name)
    model = old.kind.init(old.save(tmp_path / "old.pth"))
    old.check(model)
    assert "do not match" not in "".join(capfd.readouterr())
    assert model.dataset_meta["classes"] == old.kind.meta["CLASSES"]


def test_the_report_is_what_is_looked_for(olds, tmp_path, capfd):
    """Without its first norm a checkpoint is loaded by mmdet, with a warning."""
    old = olds("mask rcnn")
    absent = {"backbone.norm0.weight": None, "backbone.norm0.bias": None}
    old.kind.init(old.save(tmp_path / "old.pth", **absent))
    report = "".join(capfd.readouterr())
    assert "do not match" in report
    assert "missing keys in source state_dict: backbone.norm0.weight, backbone.norm0.bias" in report


def test_through_torch(olds):
    old = olds("ffnet_seg")
    given = dict(old.state)
    model = old.kind.build()
    report = model.load_state_dict(given, strict=True)
    assert report.missing_keys == report.unexpected_keys == []
    old.check(model)
    assert given.keys() == old.state.keys()  # the caller's stays as it is


def prefixed(state: dict) -> dict:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def halved(state: dict) -> dict:
    return {name: t.half() if t.is_floating_point() else t for name, t in state.items()}


@pytest.mark.parametrize("name", ["cascade", "ffnet_seg"])
@pytest.mark.parametrize("change", [prefixed, halved, lambda state: state])
def test_other_forms_of_a_file(name, change, olds, tmp_path):
    """From DistributedDataParallel, in half precision, without a wrapper."""
    old = olds(name)
    changed = Old(old.kind, old.names, change(old.state))
    own = run(old.kind, changed.save(tmp_path / "old.pth"), tmp_path).state_dict()
    torch.save(changed.state, tmp_path / "flat.pth")
    flat = run(old.kind, tmp_path / "flat.pth", tmp_path).state_dict()
    for name, held in own.items():
        torch.testing.assert_close(held, value(name, held), rtol=2e-3, atol=0)
        assert torch.equal(held, flat[name])


def test_averaged_weights_of_mmdet_2(olds, tmp_path, capfd):
    """Its hook saves the averaged weights under the plain names, the others as flat buffers."""
    old = olds("cascade")
    flat = {f"ema_{name.replace('.', '_')}": torch.zeros(3) for name in old.state}
    old.check(run(old.kind, old.save(tmp_path / "old.pth", **flat), tmp_path))
    report = "".join(capfd.readouterr())
    assert "missing keys" not in report
    unexpected = report.split("unexpected key in source state_dict: ")[1].split("\n")[0]
    assert set(unexpected.split(", ")) == set(flat)


def test_into_copies_and_wrappers(olds):
    old = olds("upernet")
    averaged = ExponentialMovingAverage(old.kind.build())
    load_state_dict(averaged.module, old.state, strict=True)
    old.check(averaged.module)
    wrapped = nn.DataParallel(old.kind.build())
    load_state_dict(wrapped, old.state, strict=True)
    old.check(wrapped.module)
    averaged.load_state_dict({"steps": torch.tensor(1), **prefixed(old.state)}, strict=True)
    old.check(averaged.module)


def test_retinanet_with_the_norm_that_it_does_not_use(olds, tmp_path, capfd):
    """Whether it was trained with it depended on the shell."""
    old = olds("retinanet")
    extra = {"backbone.norm0.weight": torch.ones(8), "backbone.norm0.bias": torch.ones(8)}
    old.check(run(old.kind, old.save(tmp_path / "old.pth", **extra), tmp_path))
    report = "".join(capfd.readouterr())
    assert "from backbone.* of the checkpoint (PoolFormer layout)" in report
    assert "not used, for outputs that are not emitted: 2 (norm0.weight, norm0.bias)" in report


def test_meta_of_an_old_numpy(olds, tmp_path):
    """numpy 1 pickled its scalars under another module's name."""
    old = olds("retinanet")
    with (
        zipfile.ZipFile(old.save(tmp_path / "new.pth")) as source,
        zipfile.ZipFile(tmp_path / "old.pth", "w") as target,
    ):
        core = f"c{np.float64(0).__reduce__()[0].__module__}\n".encode()
        contents = {entry.filename: source.read(entry) for entry in source.infolist()}
        (pickled,) = [name for name in contents if name.endswith("data.pkl")]
        assert core in contents[pickled]
        contents[pickled] = contents[pickled].replace(core, b"cnumpy.core.multiarray\n")
        for name, content in contents.items():
            target.writestr(name, content)
    old.check(run(old.kind, tmp_path / "old.pth", tmp_path))


class Foreign:
    """Something else in a checkpoint's meta."""


def test_meta_with_other_objects_is_refused(olds, tmp_path):
    old = olds("retinanet")
    path = tmp_path / "old.pth"
    torch.save(dict(meta=dict(config=Foreign()), state_dict=old.state), path)
    with pytest.raises(WeightsError, match="no plain checkpoint of tensors.*Foreign"):
        run(old.kind, path, tmp_path)


def test_names_of_the_head_in_both_directions(olds):
    names = {theirs: ours for theirs, ours in olds("ffnet_seg").names.items() if "decode_" in ours}
    names = {t.removeprefix("decode_head."): o.removeprefix("decode_head.")
             for t, o in names.items()}  # fmt: skip
    (layout,) = HEAD_LAYOUTS
    assert layout.rules.rename(list(names)) == names
    back = layout.rules.restore(list(names.values()))
    assert back == {ours: theirs for theirs, ours in names.items()}


# ---------------------------------------------------------------- what does not fit

CASES = [
    (name, key)
    for name, keys in {
        "retinanet": ["backbone.patch_embed.proj.weight", "backbone.network.4.1.mlp.fc1.bias",
                      "backbone.norm2.weight", "neck.fpn_convs.4.conv.bias",
                      "bbox_head.retina_reg.weight"],
        "mask rcnn": ["backbone.norm0.bias", "roi_head.mask_head.upsample.weight",
                      "rpn_head.rpn_cls.bias"],
        "cascade": ["backbone.stages.1.0.proj.1.conv.bn.running_var",
                    "backbone.stages.2.1.token_mixer.0.main.conv2.conv1.c.weight",
                    "roi_head.bbox_head.2.shared_convs.3.bn.weight"],
        "semantic fpn": ["backbone.network.0.0.layer_scale_1",
                         "decode_head.scale_heads.3.4.conv.weight"],
        "upernet": ["backbone.stages.0.0.channel_mixer.layer_scale",
                    "decode_head.psp_modules.3.1.bn.bias", "auxiliary_head.conv_seg.bias"],
        "ffnet_seg": ["backbone.patch_embed.0.c.weight", "decode_head.squeeze.0.c.weight",
                      "decode_head.head_blocks.2.token_mixer.main.conv1.conv2.c.weight",
                      "decode_head.align.0.bn.running_mean", "decode_head.conv_seg.weight"],
    }.items()
    for key in keys
]  # fmt: skip


@pytest.mark.parametrize(("name", "key"), CASES)
def test_what_does_not_fit_is_refused(name, key, olds, tmp_path):
    old = olds(name)
    tensor = old.state[key]
    changes = {
        "dropped": {key: None},
        "renamed": {key: None, key.replace("weight", "wieght") + "x": tensor},
        "of another shape": {key: torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)},
    }
    model = old.kind.build()
    before = {name: held.clone() for name, held in model.state_dict().items()}
    for what, change in changes.items():
        path = old.save(tmp_path / f"{what}.pth", **change)
        with pytest.raises((UserError, WeightsError), match="fit|unknown") as caught:
            run(old.kind, path, tmp_path, model)
        assert "\n" not in str(caught.value), what
        # Refused before anything was copied.
        assert all(torch.equal(held, before[name]) for name, held in model.state_dict().items())


def test_a_foreign_backbone_that_does_not_fit_says_where(olds):
    old = olds("semantic fpn")
    state = old.state | {"backbone.network.0.7.norm1.weight": torch.ones(8)}
    with pytest.raises(WeightsError) as caught:
        old.kind.build().load_state_dict(state)
    assert str(caught.value) == (
        "backbone.* of the checkpoint: weights in the PoolFormer layout do not fit this "
        "PoolFormer: 1 unexpected: network.0.7.norm1.weight"
    )


def test_fused_models(olds):
    old = olds("ffnet_seg")
    model = old.kind.build()
    model.load_state_dict(old.state)
    fused = switch_to_deploy(model.eval())
    with pytest.raises(WeightsError, match="FFNet_seg layout.*load them before switch_to_deploy"):
        fused.load_state_dict(old.state)
    with pytest.raises(WeightsError, match="FFNetHead layout.*load them before switch_to_deploy"):
        fused.decode_head.load_state_dict(
            {n.removeprefix("decode_head."): t for n, t in old.state.items() if "decode_" in n}
        )
    again = switch_to_deploy(old.kind.build().eval())
    again.load_state_dict(fused.state_dict(), strict=True)
    for name, held in fused.state_dict().items():
        assert torch.equal(again.state_dict()[name], held)


# ---------------------------------------------------------------- our own names


@pytest.mark.parametrize("name", KINDS)
def test_own_checkpoints_are_not_converted(name, olds, tmp_path, monkeypatch, capfd):
    old = olds(name)
    model = old.kind.build()
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / "own.pth")

    def fail(*args, **kwargs):
        raise AssertionError("converted")

    monkeypatch.setattr(trained, "convert", fail)
    loaded = run(old.kind, tmp_path / "own.pth", tmp_path).state_dict()
    assert all(torch.equal(held, loaded[key]) for key, held in model.state_dict().items())
    assert "do not match" not in "".join(capfd.readouterr())
    with pytest.raises(AssertionError, match="converted"):
        old.kind.build().load_state_dict(old.state)


def test_a_part_of_an_own_state_dict_loads_as_torch_defines(olds):
    model = olds("ffnet_seg").kind.build()
    state = model.state_dict()
    kept = {name: value(name, state[name]) for name in list(state)[::3]}
    report = model.load_state_dict({**kept, "backbone.norm9.weight": torch.ones(1)}, strict=False)
    # Without metadata torch takes the state dict for one of a time before that counter.
    missing = [n for n in state if n not in kept and not n.endswith("num_batches_tracked")]
    assert report.missing_keys == missing
    assert report.unexpected_keys == ["backbone.norm9.weight"]
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*backbone.norm9.weight") as caught:
        model.load_state_dict({**kept, "backbone.norm9.weight": torch.ones(1)})
    assert not isinstance(caught.value, WeightsError)
    for name, held in model.state_dict().items():
        assert torch.equal(held, kept.get(name, state[name]))


def test_a_deeper_network_of_our_own_is_refused(olds, tmp_path):
    """mmengine would drop the blocks that have no place, and the rest fits."""
    kind = olds("semantic fpn").kind
    deeper = copy.deepcopy(kind.small)
    deeper["backbone"]["arch"]["depths"] = [1, 1, 3, 1]
    state = Kind(kind.config, deeper, kind.backbone, kind.rest, kind.meta).build().state_dict()
    torch.save(dict(state_dict=state), tmp_path / "deeper.pth")
    with pytest.raises(WeightsError, match=r"fit this PoolFormer: 10 unexpected: stages\.2\.2"):
        run(kind, tmp_path / "deeper.pth", tmp_path)
    norms = dict(kind.build().state_dict(), **{"backbone.norm4.weight": torch.ones(1)})
    torch.save(norms, tmp_path / "norm.pth")
    with pytest.raises(WeightsError, match="1 unexpected: norm4.weight"):
        run(kind, tmp_path / "norm.pth", tmp_path)


def test_load_checkpoint_of_mmengine(olds, tmp_path):
    """What inference without a runner calls, strictly."""
    old = olds("mask rcnn")
    model = old.kind.build()
    load_checkpoint(model, str(old.save(tmp_path / "old.pth")), strict=True)
    old.check(model)


# ---------------------------------------------------------------- parts of files


def saved(tmp_path: Path, state: dict[str, Tensor]) -> str:
    torch.save(dict(state_dict=state), tmp_path / "file.pth")
    return str(tmp_path / "file.pth")


def own_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value(name, held) for name, held in model.state_dict().items()}


def held_like(model: nn.Module, state: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that a model has taken from a state dict."""
    held = model.state_dict()
    return {n for n, t in state.items() if n in held and torch.equal(held[n], t)}


@pytest.mark.parametrize("published", [False, True])
def test_a_head_for_other_classes_starts_anew(published, olds, tmp_path, capfd):
    """As fine-tuning has it, in mmengine's own log; all else is taken."""
    old = olds("ffnet_seg")
    cfg = old.kind.cfg()
    cfg.model.decode_head.num_classes = 7
    replace_sync_bn(cfg.model)
    cfg.model.backbone.init_cfg = None
    init_default_scope("mmseg")
    model = MODELS.build(cfg.model)
    state = own_state(old.kind.build())
    path = saved(tmp_path, old.state if published else state)
    other = {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"}
    load_checkpoint(model, path)
    assert held_like(model, state) == state.keys() - other
    report = "".join(capfd.readouterr())
    assert "missing keys in source state_dict: decode_head.conv_seg.weight, decode_head.c" in report
    with pytest.raises(UserError, match="2 of .* missing or differ in shape .decode_head.conv_seg"):
        run(old.kind, Path(path), tmp_path, model)


def test_parts_that_start_anew_are_named_in_init_cfg(olds, tmp_path):
    """What was replaced may be missing; what is there and fits is taken all the same."""
    kind = olds("semantic fpn").kind
    state = own_state(kind.build())
    lost = [name for name in state if ".2.0.mlp." in name]
    path = saved(tmp_path, {name: t for name, t in state.items() if name not in lost})
    model = kind.build()
    with pytest.raises(WeightsError, match=r" 4 missing.*new=\['token_mixer'\]"):
        load_checkpoint(model, path)
    model.backbone.init_cfg = [dict(type="Pretrained", checkpoint=path, new=[r"stages\.2"])]
    load_checkpoint(model, path)
    assert held_like(model, state) == state.keys() - set(lost)
    # Of another shape, too, and under published names.
    old = olds("semantic fpn")
    wrong = {"backbone.network.4.0.mlp.fc1.bias": torch.zeros(3)}
    model = kind.build()
    model.backbone.init_cfg = dict(type="Pretrained", new=r"fc1\.bias")
    load_checkpoint(model, saved(tmp_path, old.state | wrong))
    assert held_like(model, state) == state.keys() - {"backbone.stages.2.0.mlp.fc1.bias"}


def test_a_file_without_the_part(olds, tmp_path):
    """A backbone would stay random without a word but mmengine's list of names."""
    kind = olds("semantic fpn").kind
    model = kind.build()
    state = own_state(model)
    heads = {name: t for name, t in state.items() if not name.startswith("backbone.")}
    with pytest.raises(WeightsError, match=r"backbone\.\* of the checkpoint: there is none of its"):
        load_checkpoint(model, saved(tmp_path, heads))
    # An ImageNet file, where that of a segmentor belongs.
    alone = {n.removeprefix("backbone."): t for n, t in state.items() if n not in heads}
    with pytest.raises(WeightsError, match="a backbone alone .* is for the backbone's init_cfg="):
        load_checkpoint(model, saved(tmp_path, alone))
    # On purpose, by a dict in memory.
    model.load_state_dict(heads, strict=False)
    assert held_like(model, state) == heads.keys()


def test_outputs_that_another_detector_has(olds, tmp_path):
    """RetinaNet's file has one norm less than Mask R-CNN wants, and the other way round."""
    fewer, more = olds("retinanet").kind.build(), olds("mask rcnn").kind.build()
    for source, target, count in ((fewer, more, 2), (more, fewer, 0)):
        state = {n: t for n, t in own_state(source).items() if n.startswith("backbone.")}
        load_checkpoint(target, saved(tmp_path, state))
        backbone = {n for n in target.state_dict() if n.startswith("backbone.")}
        assert len(backbone - held_like(target, state)) == count


def test_a_part_with_names_of_somebodys_own(tmp_path):
    class Extended(PoolFormer):
        def __init__(self, **kwargs) -> None:
            super().__init__(dict(depths=[1] * 4, dims=DIMS), **kwargs)
            self.extra = nn.Linear(2, 2)

    state = own_state(Extended())
    kept = {name: t for name, t in state.items() if not name.startswith("norm0.")}
    model = Extended()
    load_checkpoint(model, saved(tmp_path, kept))
    assert held_like(model, state) == kept.keys()
    del kept["extra.bias"]
    with pytest.raises(WeightsError, match="1 missing: extra.bias"):
        load_checkpoint(model, saved(tmp_path, kept))


def test_averaged_copies_are_checked_too(olds):
    """As mmengine's EMAHook loads them."""
    kind = olds("semantic fpn").kind
    state = OrderedDict(own_state(kind.build()))
    averaged = ExponentialMovingAverage(kind.build())
    load_state_dict(averaged.module, state)
    assert held_like(averaged.module, state) == state.keys()
    del state["backbone.norm1.bias"]
    with pytest.raises(WeightsError, match="1 missing: norm1.bias"):
        load_state_dict(averaged.module, state)
    # What one loads oneself is loaded as torch defines.
    result = kind.build().load_state_dict(state, strict=False)
    assert result.missing_keys == ["backbone.norm1.bias"]


@pytest.mark.parametrize("levels", [1, 2])
def test_subclasses_that_extend_the_loading(levels, olds):
    """Their methods stand between mmengine's and the one that looks who loads."""
    cls = PoolFormer
    for _ in range(levels):

        class Extended(cls):
            def _load_from_state_dict(self, *args, **kwargs) -> None:
                super()._load_from_state_dict(*args, **kwargs)

        cls = Extended
    model = cls(dict(depths=[1] * 4, dims=DIMS))
    state = model.state_dict()
    del state["stages.1.0.norm1.bias"]
    with pytest.raises(WeightsError, match=r"1 missing: stages\.1\.0\.norm1\.bias"):
        load_state_dict(model, state)
    assert model.load_state_dict(state, strict=False).missing_keys == ["stages.1.0.norm1.bias"]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)


# ---------------------------------------------------------------- classes


class Loop:
    """As much of a test loop as the hook looks at."""

    def __init__(self, classes) -> None:
        self.dataloader = self
        self.dataset = self
        self.metainfo = dict(classes=classes)


@pytest.mark.parametrize(
    ("meta", "warned"),
    [
        (dict(CLASSES=("cat", "dog")), ""),
        (dict(CLASSES=["cat", "dog"]), ""),
        (dict(dataset_meta=dict(classes=("dog", "cat"))), "'dog' where this has 'cat'"),
        (dict(CLASSES=("cat", "cow")), "'cow' where this has 'dog', the first of 1"),
        (dict(CLASSES=None), ""),
        ({}, ""),
    ],
)
def test_other_classes_are_told(meta, warned, capsys):
    class TestRunner:
        model = nn.Linear(1, 1)
        test_loop = Loop(("cat", "dog"))

    checkpoint = dict(meta=meta, state_dict=TestRunner.model.state_dict())
    CompleteCheckpointHook().after_load_checkpoint(TestRunner, checkpoint)
    message = capsys.readouterr().err
    assert warned in message and bool(message) == bool(warned)
