"""The ImageNet recipes: every published setting against the merged configs, and every config as a
model.

The values are written out here from the papers and the released scripts and not read from ours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmmetaformer import list_archs

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


class Row(NamedTuple):
    """One network: recipe, class, arch, channels, drop path, crop, dropout of the head, millions of
    parameters of the published classifier."""

    recipe: str
    kind: str
    arch: str
    channels: int
    drop_path: float
    crop: tuple[int, float] = (224, 0.9)
    dropout: float = 0.0
    millions: str | None = None


# fmt: off
POOLFORMER = {
    f"poolformer_{size}": Row("poolformer", "PoolFormer", size, channels, rate, (224, crop), 0.0, count)  # noqa: E501
    for size, channels, rate, crop, count in (
        ("s12", 512, 0.1, 0.9, "11.915176"), ("s24", 512, 0.1, 0.9, "21.388968"),
        ("s36", 512, 0.2, 0.9, "30.862760"), ("m36", 768, 0.3, 0.95, "56.172520"),
        ("m48", 768, 0.4, 0.95, "73.473448"))
}
ABLATION = {
    name: Row("poolformer", "MetaFormer", name, 512, 0.1,
              (224, 0.95 if name[-4:] in ("pppa", "ppaa", "ppff") else 0.9), 0.0, count)
    for name, count in {
        **dict.fromkeys(list_archs("metaformer_s12_*")),
        "metaformer_s12_identity": "11.9", "metaformer_s12_pool5": "11.9",
        "metaformer_s12_depthwise": "11.9", "metaformer_s12_no_mlp": "2.5",
        "metaformer_s12_pppa": "14.0", "metaformer_s12_ppaa": "16.5",
        "metaformer_s12_pppf": "11.9", "metaformer_s12_ppff": "12.2",
    }.items()
}
BASIC = {
    f"{kind.lower()}_{size}": Row("basic", kind, size, channels, rate, (224, 1.0), 0.0, count)
    for kind, last in (("IdentityFormer", 0.4), ("RandFormer", 0.3), ("PoolFormerV2", 0.4))
    for size, channels, rate, count in (
        ("s12", 512, 0.1, "11.9"), ("s24", 512, 0.1, "21.3"), ("s36", 512, 0.2, "30.8"),
        ("m36", 768, 0.3, "56.1"), ("m48", 768, last, "73.3"))
}
CONV = {
    f"convformer_{size}": Row("convformer", "ConvFormer", size, channels, rate, (224, 1.0), 0.0, count)  # noqa: E501
    for size, channels, rate, count in (
        ("s18", 512, 0.2, "26.77"), ("s36", 512, 0.3, "40.01"), ("m36", 576, 0.4, "57.05"),
        ("b36", 768, 0.6, "99.88"))
}
ATTENTION = {
    f"caformer_{size}": Row("caformer", "CAFormer", size, channels, rate, (224, 1.0), dropout, count)  # noqa: E501
    for size, channels, rate, dropout, count in (
        ("s18", 512, 0.15, 0.0, "26.34"), ("s36", 512, 0.3, 0.4, "39.30"),
        ("m36", 576, 0.4, 0.4, "56.20"), ("b36", 768, 0.6, 0.5, "98.75"))
}
FFNET = {
    f"ffnet_{size}": Row("ffnet", "FFNet", size, channels, rate, (256, crop), 0.0, count)
    for size, channels, rate, crop, count in (
        ("1", 640, 0.1, 0.9, "13.78"), ("2", 704, 0.15, 0.9, "27.21"),
        ("3", 768, 0.35, 0.95, "48.82"), ("4", 1024, 0.4, 0.95, "79.87"))
}
CONVMIXER = {
    f"convmixer_{size}": Row("convmixer", "ConvMixer", size, channels, 0.0, (224, 0.96), 0.0, count)
    for size, channels, count in (
        ("768_32", 768, "21.11"), ("1024_20", 1024, "24.38"), ("1536_20", 1536, "51.63"))
}
MIXER = {
    f"mlp_mixer_{size}": Row("mixer", "MlpMixer", size, channels, 0.0, (224, 0.875))
    for size, channels in (("b16", 768), ("l16", 1024))
}
# fmt: on
ROWS = {
    **POOLFORMER,
    **ABLATION,
    **BASIC,
    **CONV,
    **ATTENTION,
    **FFNET,
    **CONVMIXER,
    **MIXER,
}  # fmt: skip
BATCH = {"convmixer": "10xb64", "mixer": "64xb64"}
AT_384 = [*CONV, *ATTENTION, "ffnet_3", "ffnet_4"]


def path(name: str, suffix: str = "") -> str:
    batch = BATCH.get(ROWS[name].recipe, "8xb128")
    return f"imagenet/{name.replace('_', '-')}_{batch}_in1k{suffix}.py"


def scale_of(crop: tuple[int, float]) -> int:
    """The short side in front of the central crop, rounded down as in timm."""
    return math.floor(crop[0] / crop[1])


def test_every_network_has_its_config(root):
    """But for MLP-Mixer's sizes without weights and FFNet_seg's backbone; there are no others."""
    unpublished = {f"mlp_mixer_{size}" for size in ("s32", "s16", "b32", "l32", "h14")}
    assert set(ROWS) == set(list_archs()) - unpublished - {"ffnet_seg"}
    expected = {path(name) for name in ROWS} | {path(name, "-384px") for name in AT_384}
    folder = root / "configs"
    found = {str(file.relative_to(folder)) for file in (folder / "imagenet").iterdir()}
    assert found == expected


def backbone(row: Row) -> dict:
    options = dict(type=f"mmmetaformer.{row.kind}", arch=row.arch, out_indices=[3])
    if row.kind in ("ConvMixer", "MlpMixer"):
        options["pyramid"] = None
    else:
        options["drop_path_rate"] = row.drop_path
    if row.kind == "FFNet":
        options["out_norm_cfg"] = dict(type="BN")
    return options


def head(row: Row) -> dict:
    smooth = dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original")
    options = dict(num_classes=1000, in_channels=row.channels, loss=smooth)
    normal = dict(type="TruncNormal", layer="Linear", std=0.02)
    if row.recipe in ("basic", "convformer", "caformer"):
        options.update(type="mmmetaformer.MetaFormerClsHead", init_cfg=None)
    elif row.recipe == "mixer":
        options.update(type="LinearClsHead", loss=dict(type="CrossEntropyLoss", loss_weight=1.0))
    else:
        options.update(type="LinearClsHead", init_cfg=normal)
    if row.recipe == "convmixer":
        options["init_cfg"] = None
    if row.recipe in ("convformer", "caformer"):
        options["hidden_ratio"] = 4
    if row.dropout:
        options["dropout_ratio"] = row.dropout
    return options


@pytest.mark.parametrize("name", ROWS)
def test_network(name, load):
    row = ROWS[name]
    cfg = load(path(name))
    found = cfg.model.to_dict()
    found["backbone"]["out_indices"] = list(found["backbone"]["out_indices"])
    assert found["backbone"] == backbone(row)
    assert found["neck"] == dict(type="GlobalAveragePooling")
    assert found["head"] == head(row)
    assert cfg.default_scope == "mmpretrain" and cfg.model.type == "ImageClassifier"
    half = [127.5] * 3
    assert cfg.data_preprocessor.mean == (half if row.recipe == "mixer" else MEAN)
    assert cfg.data_preprocessor.std == (half if row.recipe == "mixer" else STD)
    assert cfg.data_preprocessor.to_rgb is True


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, "") for name in ROWS), *((name, "-384px") for name in AT_384)]
)
def test_evaluation(name, suffix, load):
    """Bicubic, the published share of the image, top-1."""
    row = ROWS[name]
    crop = (384, 1.0) if suffix else row.crop
    cfg = load(path(name, suffix))
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.type == "ImageNet" and loader.dataset.split == "val"
        read, resize, centre, pack = loader.dataset.pipeline
        assert (read["type"], pack["type"]) == ("LoadImageFromFile", "PackInputs")
        assert resize["type"] == "ResizeEdge" and resize["edge"] == "short"
        assert resize["interpolation"] == "bicubic"
        # mmpretrain evaluates MLP-Mixer with OpenCV, which does not blur what it makes smaller.
        assert resize.get("backend", "cv2") == ("cv2" if row.recipe == "mixer" else "pillow")
        assert resize["scale"] == scale_of(crop)
        assert centre == dict(type="CenterCrop", crop_size=crop[0])
    assert cfg.test_evaluator.type == "Accuracy" and 1 in cfg.test_evaluator.topk
    assert [hook["type"] for hook in cfg.custom_hooks][0].endswith(".PublishedClassifierHook")


OPTIMISERS = {
    "poolformer": dict(type="AdamW", lr=1e-3, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)),
    "basic": dict(type="AdamW", lr=4e-3, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)),
    "convformer": dict(type="AdamW", lr=4e-3, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)),
    "caformer": dict(type="Lamb", lr=8e-3, weight_decay=0.05, eps=1e-6),
    "ffnet": dict(type="AdamW", lr=1e-3, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)),
    "convmixer": dict(type="AdamW", lr=0.01, weight_decay=2e-5, eps=1e-3, betas=(0.9, 0.999)),
}
TRAINED = [name for name, row in ROWS.items() if row.recipe != "mixer"]


@pytest.mark.parametrize("name", TRAINED)
def test_training(name, load):
    row = ROWS[name]
    cfg = load(path(name))
    mixer = row.recipe == "convmixer"
    accumulates = row.recipe in ("basic", "convformer", "caformer")
    assert cfg.optim_wrapper.optimizer.to_dict() == OPTIMISERS[row.recipe]
    assert cfg.optim_wrapper.get("accumulative_counts", 1) == (4 if accumulates else 1)
    assert cfg.optim_wrapper.get("clip_grad") == (dict(max_norm=1.0) if mixer else None)
    assert cfg.train_dataloader.batch_size == (64 if mixer else 128)
    assert cfg.auto_scale_lr.base_batch_size == (640 if mixer else 1024)
    short = name in ("convmixer_1536_20", "convmixer_1024_20")
    assert cfg.train_cfg.max_epochs == (150 if short else 300)
    mixup, cutmix = (0.5, 0.5) if mixer else (0.8, 1.0)
    assert cfg.model.train_cfg.augments == [
        dict(type="Mixup", alpha=mixup), dict(type="CutMix", alpha=cutmix),
    ]  # fmt: skip
    assert ("EMAHook" in [hook["type"] for hook in cfg.custom_hooks]) == (row.recipe == "ffnet")

    steps = {step["type"]: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(steps) == [
        "LoadImageFromFile", "RandomResizedCrop", "RandomFlip", "RandAugment", "RandomErasing",
        "PackInputs",
    ]  # fmt: skip
    assert steps["RandomResizedCrop"]["scale"] == row.crop[0]
    assert steps["RandomResizedCrop"]["interpolation"] == "bicubic"
    assert steps["RandomFlip"]["prob"] == 0.5
    augment = steps["RandAugment"]
    assert (augment["magnitude_level"], augment["magnitude_std"]) == (9, 0.5)
    assert (augment["num_policies"], augment["policies"]) == (2, "timm_increasing")
    assert augment["hparams"] == dict(pad_val=[104, 116, 124], interpolation="bicubic")
    erase = steps["RandomErasing"]
    assert (erase["erase_prob"], erase["mode"]) == (0.25, "rand")
    assert (erase["min_area_ratio"], erase["max_area_ratio"]) == (0.02, 1 / 3)
    assert (erase["fill_color"], erase["fill_std"]) == (MEAN[::-1], STD[::-1])


def learning_rates(cfg, iterations: int = 4) -> list[float]:
    """At the beginning of each epoch, and behind the last, of a run with that many iterations per
    epoch."""
    from mmengine.registry import PARAM_SCHEDULERS

    weight = torch.nn.Parameter(torch.zeros(1))
    lr = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([weight], lr=lr)
    schedulers = []
    for options in cfg.param_scheduler:
        schedulers.append(
            PARAM_SCHEDULERS.build(
                options.to_dict(),
                default_args=dict(optimizer=optimizer, epoch_length=iterations),
            )
        )
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(cfg.train_cfg.max_epochs):
        for _ in range(iterations):
            optimizer.step()
            for scheduler in schedulers:
                scheduler.by_epoch or scheduler.step()
        for scheduler in schedulers:
            scheduler.by_epoch and scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(
    ("name", "peak", "warmup"),
    [("poolformer_s12", 1e-3, 5), ("identityformer_s12", 4e-3, 5), ("convformer_s18", 4e-3, 20),
     ("caformer_s18", 8e-3, 20), ("ffnet_1", 1e-3, 5)],
)  # fmt: skip
def test_cosine(name, peak, warmup, load):
    rates = learning_rates(load(path(name)))
    assert rates[0] == pytest.approx(1e-6)
    assert rates[warmup] == pytest.approx(peak) == max(rates)
    assert rates[300] == pytest.approx(1e-5, rel=0.05)
    middle = (300 + warmup) // 2
    assert rates[middle] == pytest.approx((peak + 1e-5) / 2, rel=0.02)


@pytest.mark.parametrize(
    ("name", "epochs"), [("convmixer_768_32", 300), ("convmixer_1024_20", 150)]
)
def test_one_cycle(name, epochs, load):
    rates = learning_rates(load(path(name)))
    peak, turn = epochs * 2 // 5, epochs * 4 // 5
    assert rates[0] < 1e-5
    assert rates[peak // 2] == pytest.approx(0.005, rel=0.01)
    assert rates[peak] == pytest.approx(0.01, rel=0.01)
    assert rates[(peak + turn) // 2] == pytest.approx(0.01 * 10.5 / 20, rel=0.01)
    assert rates[turn] == pytest.approx(0.01 / 20, rel=0.01)
    assert rates[(turn + epochs) // 2] == pytest.approx(0.01 / 40, rel=0.02)
    assert abs(rates[epochs]) < 1e-6


@pytest.mark.parametrize(
    "name", ["poolformer_s12", "ffnet_3", "convformer_s18", "convmixer_768_32"]
)
def test_weight_decay(name, build):
    """timm's rule: none on biases and on parameters of one dimension, of which FFNet's LayerScale
    is not one in its release."""
    with torch.device("meta"):
        cfg, model = build(path(name))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: group["weight_decay"] > 0
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    scaled = name.startswith("ffnet")
    expected = {
        key: (parameter.ndim > 1 and not key.endswith(".bias")) or (scaled and "layer_scale" in key)
        for parameter, key in names.items()
    }
    assert found == expected and len(set(found.values())) == 2


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.millions])
def test_parameters(name, build):
    """Of the whole classifier, as published."""
    with torch.device("meta"):
        _, model = build(path(name))
    count = sum(parameter.numel() for parameter in model.parameters())
    millions = ROWS[name].millions
    assert f"{count / 1e6:.{len(millions.partition('.')[2])}f}" == millions


@pytest.mark.slow
@pytest.mark.parametrize("name", ["poolformer_s12", "metaformer_s12_ppaa", "randformer_s12",
                                  "convformer_s18", "caformer_s36", "ffnet_1",
                                  "convmixer_768_32", "mlp_mixer_b16"])  # fmt: skip
def test_one_step(name, build):
    """Loss with mixed images, gradients for every parameter, a prediction, from fresh weights."""
    from mmpretrain.structures import DataSample

    cfg, model = build(path(name))
    model.init_weights()
    # Images of the published size where a network is locked to it.
    size = 224 if ROWS[name].kind in ("RandFormer", "MlpMixer") or "ppaa" in name else 64
    batch = dict(
        inputs=[torch.randint(0, 256, (3, size, size), dtype=torch.uint8) for _ in range(2)],
        data_samples=[DataSample().set_gt_label(label) for label in (0, 999)],
    )
    model.train()
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    assert losses["loss"].isfinite()
    # Near the loss of chance: nothing has exploded, nothing is decided.
    assert float(losses["loss"]) == pytest.approx(math.log(1000), rel=0.3)
    losses["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch, False), mode="predict")
    assert [tuple(result.pred_score.shape) for result in results] == [(1000,), (1000,)]
