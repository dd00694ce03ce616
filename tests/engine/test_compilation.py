"""The backbone alone under torch.compile: names, copies, sizes and training through the tools."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch._dynamo.utils import counters

from mmmetaformer import ConvFormer, FFNet, PoolFormer
from mmmetaformer.engine.compilation import compile_backbones
from mmmetaformer.engine.errors import UserError
from mmmetaformer.weights import allow_mmengine_checkpoints

ARCH = dict(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32])


@pytest.fixture
def graphs() -> Callable[[], int]:
    """How many graphs have been compiled since the test began."""
    torch.compiler.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch.compiler.reset()


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = PoolFormer(ARCH)
        self.head = nn.Conv2d(32, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x)[-1])


def images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.randn(2, 3, *size) for size in sizes]


def test_one_graph_serves_all_sizes_and_gives_the_same(graphs):
    model = Detector()
    plain = deepcopy(model)
    assert compile_backbones(model, backend="eager") == [model.backbone]
    for image in images((64, 96), (96, 64), (128, 128), (65, 97), (160, 96)):
        found, expected = model(image), plain(image)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        found.square().sum().backward()
        expected.square().sum().backward()
    assert 1 <= graphs() <= 2
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_inductor_takes_norms_over_channels_at_any_size(graphs):
    """With a permutation in them it fails, at the first size already."""
    torch.manual_seed(0)
    backbone = ConvFormer(ARCH, out_indices=(0,))
    plain = deepcopy(backbone)
    compile_backbones(backbone, backend="inductor")
    for image in images((64, 96), (96, 64)):
        with torch.no_grad():
            torch.testing.assert_close(backbone(image), plain(image), rtol=1e-4, atol=1e-4)
    assert 1 <= graphs() <= 2


def test_a_graph_per_size_where_that_is_asked_for(graphs):
    model = Detector()
    compile_backbones(model, backend="eager", dynamic=False)
    for image in images((64, 96), (96, 64), (128, 128)):
        model(image)
    assert graphs() == 3


def test_nothing_but_the_backbone_is_compiled(graphs):
    model = Detector()
    compile_backbones(model, backend="eager")
    assert model.backbone._compiled_call_impl is not None
    assert model._compiled_call_impl is None and model.head._compiled_call_impl is None


def test_names_and_copies(graphs):
    model = Detector()
    names = list(model.state_dict())
    compile_backbones(model, backend="eager")
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_parameters()] == names
    copy = deepcopy(model)  # as an EMA hook makes one
    assert list(copy.state_dict()) == names
    (image,) = images((64, 64))
    torch.testing.assert_close(copy(image), model(image), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_compiled():
    with pytest.raises(UserError, match="unknown backend 'no_such': expected one of .*inductor"):
        compile_backbones(Detector(), backend="no_such")
    with pytest.raises(UserError, match="Conv2d has no backbone of mmmetaformer"):
        compile_backbones(nn.Conv2d(3, 3, 1))
    with pytest.raises(UserError, match="FFNet with with_cp=True and BatchNorm cannot be compiled"):
        compile_backbones(FFNet(dict(ARCH, dims=[8, 16, 32, 64]), with_cp=True))
    assert compile_backbones(PoolFormer(ARCH, with_cp=True), backend="eager")


def test_with_cp(graphs):
    backbone = PoolFormer(ARCH, with_cp=True)
    plain = deepcopy(backbone)
    compile_backbones(backbone, backend="eager")
    (image,) = images((64, 64))
    for one in (backbone, plain):
        sum(level.square().sum() for level in one(image)).backward()
    for one, other in zip(backbone.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)


SEGMENTOR = dict(
    type="mmseg.EncoderDecoder",
    data_preprocessor=dict(
        type="mmseg.SegDataPreProcessor", mean=[0.0] * 3, std=[255.0] * 3, size_divisor=32
    ),
    backbone=dict(type="mmmetaformer.PoolFormer", arch=ARCH),
    decode_head=dict(
        type="mmseg.FCNHead", in_channels=32, channels=8, num_classes=2, num_convs=1,
        norm_cfg=dict(type="GN", num_groups=2),
    ),
    train_cfg=dict(), test_cfg=dict(mode="whole"),
)  # fmt: skip
# Of images and maps: another one in each iteration.
SIZES = [(64, 64), (64, 96), (96, 128), (128, 64)]


class Samples(torch.utils.data.Dataset):
    """Images of noise, each of its own size."""

    metainfo = dict(classes=("a", "b"), palette=[[0] * 3, [1] * 3])

    def __len__(self) -> int:
        return len(SIZES)

    def __getitem__(self, index: int) -> dict:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        generator = torch.Generator().manual_seed(index)
        size = SIZES[index]
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        labels = torch.randint(0, 2, (1, *size), generator=generator)
        sample.set_data(dict(gt_sem_seg=PixelData(data=labels)))
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        return dict(inputs=image, data_samples=sample)


@pytest.fixture
def train(tmp_path) -> Callable[..., dict]:
    def run(name: str, hooks: list[dict], **settings) -> dict:
        """Train and evaluate with EMA in batches of one; the checkpoint."""
        loader = dict(
            dataset=Samples(), batch_size=1, num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="pseudo_collate"),
        )  # fmt: skip
        cfg = Config(
            dict(
                default_scope="mmseg", experiment_name=f"{name}{len(settings)}", model=SEGMENTOR,
                custom_hooks=[*hooks, dict(type="EMAHook")], log_level="WARNING",
                default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
                randomness=dict(seed=0),
            )
        )  # fmt: skip
        runner = Runner(
            **{**cfg, "cfg": cfg, "work_dir": str(tmp_path / name)},
            train_dataloader=loader, val_dataloader=loader,
            train_cfg=dict(by_epoch=True, **{"max_epochs": 1, "val_interval": 1, **settings}),
            val_cfg=dict(), val_evaluator=dict(type="mmseg.IoUMetric"),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3)),
            resume=bool(settings),
        )  # fmt: skip
        allow_mmengine_checkpoints()
        runner.train()
        path = tmp_path / name / f"epoch_{runner.epoch}.pth"
        return torch.load(path, map_location="cpu", weights_only=False)

    return run


def test_training_with_changing_sizes(train, graphs):
    """Four sizes in training and in validation, EMA and resuming: the checkpoint is as without,
    and graphs are few: training mode and evaluation, from one size or from any."""
    hook = dict(type="mmmetaformer.engine.hooks.CompileBackboneHook", backend="aot_eager")
    found = train("compiled", [hook])
    few = graphs()
    # Torch asks whether sides are equal, and which of the CPU's convolutions to take.
    assert 2 <= few <= 6
    expected = train("plain", [])
    assert graphs() == few
    for key in ("state_dict", "ema_state_dict"):
        assert list(found[key]) == list(expected[key])
        for name, value in expected[key].items():
            torch.testing.assert_close(found[key][name], value, rtol=1e-3, atol=1e-4)
    resumed = train("compiled", [hook], max_epochs=2)
    assert resumed["meta"]["epoch"] == 2
    assert list(resumed["state_dict"]) == list(expected["state_dict"])
