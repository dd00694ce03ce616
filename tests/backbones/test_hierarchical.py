"""The stage loop: outputs, freezing, drop path, checkpointing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mmmetaformer import MetaFormer, PoolFormer, create_backbone
from mmmetaformer.engine.complexity import saved_for_backward

TINY = dict(depths=[1, 2, 1, 1], dims=[8, 12, 16, 20])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0, 1, 2, 3), (0, 1, 2, 3)),
        ([1, 2, 3], (1, 2, 3)),
        (range(2), (0, 1)),
        ((-1,), (3,)),
        (-2, (2,)),
        ((3, 0), (3, 0)),
        (np.array([0, 2]), (0, 2)),
    ],
)
def test_out_indices(given, expected, randomize):
    before = copy.deepcopy(given)
    backbone = randomize(MetaFormer(TINY, out_indices=given)).eval()
    assert backbone.out_indices == expected
    assert backbone.out_channels == tuple(TINY["dims"][i] for i in expected)
    assert backbone.out_strides == tuple((4, 8, 16, 32)[i] for i in expected)
    assert str(given) == str(before)
    # Only what is emitted has a norm, and nothing behind the last emitted stage is built.
    assert {name for name, _ in backbone.named_children() if name.startswith("norm")} == {
        f"norm{i}" for i in expected
    }
    assert len(backbone.stages) == max(expected) + 1
    everything = MetaFormer(TINY).eval()
    everything.load_state_dict(backbone.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    for index, level in zip(expected, backbone(x), strict=True):
        torch.testing.assert_close(level, everything(x)[index])


@pytest.mark.parametrize(
    ("given", "error"),
    [((4,), ValueError), ((-5,), ValueError), ((1, 1), ValueError), ((3, -1), ValueError),
     ((), ValueError), ("01", TypeError), ((0.0,), TypeError), (None, TypeError)],
)  # fmt: skip
def test_wrong_out_indices(given, error):
    with pytest.raises(error, match="out_indices"):
        MetaFormer(TINY, out_indices=given)


def test_raw_outputs(randomize):
    normed = randomize(MetaFormer(TINY)).eval()
    raw = MetaFormer(TINY, out_norm_cfg=None).eval()
    raw.load_state_dict({k: v for k, v in normed.state_dict().items() if k in raw.state_dict()})
    x = torch.randn(1, 3, 40, 72)
    for index, (a, b) in enumerate(zip(raw(x), normed(x), strict=True)):
        torch.testing.assert_close(getattr(normed, f"norm{index}")(a), b)


@pytest.mark.parametrize("frozen", [-1, 0, 1, 2, 4])
def test_frozen_stages(frozen):
    backbone = MetaFormer(TINY, frozen_stages=frozen, norm_cfg=dict(type="BN"))
    assert backbone.train() is backbone
    for name, parameter in backbone.named_parameters():
        kind, rest = name.split(".", 1) if not name.startswith("norm") else ("norm", name[4:])
        stage = int(rest.split(".")[0])
        is_stem = kind == "downsample_layers" and stage == 0
        assert parameter.requires_grad == (stage >= frozen and not (is_stem and frozen >= 0)), name
    for index, stage in enumerate(backbone.stages):
        assert all(module.training == (index >= frozen) for module in stage.modules())


@pytest.mark.parametrize("frozen", [-2, 5, 1.0, None, True])
def test_wrong_frozen_stages(frozen):
    with pytest.raises(ValueError, match="frozen_stages"):
        MetaFormer(TINY, frozen_stages=frozen)


def test_frozen_parameters_stay_and_the_others_move(randomize):
    backbone = randomize(MetaFormer(TINY, frozen_stages=2))
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], 0.1)
    sum(level.square().mean() for level in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    moved = {k.split(".")[0] + k.split(".")[1] for k, v in backbone.state_dict().items()
             if not torch.equal(v, before[k])}  # fmt: skip
    assert moved == {
        "downsample_layers2", "downsample_layers3", "stages2", "stages3",
        "norm2weight", "norm2bias", "norm3weight", "norm3bias",
    }  # fmt: skip


@pytest.mark.parametrize("norm_eval", [False, True])
def test_norm_eval(norm_eval):
    backbone = MetaFormer(TINY, norm_cfg=dict(type="BN"), norm_eval=norm_eval).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 10
    assert all(norm.training != norm_eval for norm in norms)
    backbone(torch.randn(2, 3, 64, 64))
    assert all(bool(norm.num_batches_tracked == 0) == norm_eval for norm in norms)
    assert not any(norm.training for norm in backbone.eval().modules())


def test_checkpointed_equals_plain(randomize):
    """Outputs and gradients, with drop path drawing the same images in the recomputation."""
    x = torch.randn(4, 3, 64, 64)
    results = []
    for with_cp in (False, True):
        backbone = randomize(MetaFormer(TINY, drop_path_rate=0.5, with_cp=with_cp)).train()
        torch.manual_seed(1)
        levels = backbone(x)
        sum(level.square().mean() for level in levels).backward()
        results.append((levels, [p.grad for p in backbone.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("fused", "ratio"), [(False, 0.5), ("auto", 0.6)])
def test_checkpointing_stores_less(randomize, fused, ratio):
    def saved(with_cp: bool) -> int:
        backbone = randomize(MetaFormer(TINY, with_cp=with_cp, fused=fused)).train()
        with saved_for_backward() as kept:
            backbone(torch.randn(2, 3, 64, 64))
        return kept.total(exclude=backbone)

    assert saved(True) < ratio * saved(False)


def test_drop_path_grows_linearly_over_all_blocks():
    backbone = PoolFormer("s12", drop_path_rate=0.1)
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0) for stage in backbone.stages for block in stage
    ]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 12), atol=1e-7)
    # Not emitting the last stage does not change the rates of the others.
    shorter = PoolFormer("s12", drop_path_rate=0.1, out_indices=(0, 1))
    assert [b.drop_path.drop_prob for b in shorter.stages[1]] == pytest.approx(rates[2:4])


def test_equal_dims_keep_their_downsampling():
    backbone = MetaFormer(dict(depths=[1] * 4, dims=[8, 8, 8, 8]))
    assert [level.shape[-1] for level in backbone(torch.rand(1, 3, 64, 64))] == [16, 8, 4, 2]


def test_init_weights_twice_is_safe():
    backbone = PoolFormer("s12", out_indices=(0,))
    backbone.init_weights()
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_weights()
    torch.testing.assert_close(dict(backbone.state_dict()), dict(before))


def test_published_initialisation():
    backbone = create_backbone("poolformer_s12")
    mlp = backbone.stages[2][0].mlp
    assert float(mlp.fc1.weight.std()) == pytest.approx(0.02, rel=0.02)
    assert not mlp.fc1.bias.any() and not mlp.fc2.bias.any()
    torch.testing.assert_close(
        backbone.stages[0][0].layer_scale1.scale.detach(), torch.full((64,), 1e-5)
    )


def test_pool_size_is_an_argument_of_poolformer():
    backbone = PoolFormer("s12", pool_size=5)
    assert backbone.stages[3][1].token_mixer.pool.kernel_size == 5
    with pytest.raises(ValueError, match="4"):
        PoolFormer("s12", pool_size=4)
    with pytest.raises(TypeError, match="both"):
        PoolFormer("s12", pool_size=5, token_mixers="identity")
    with pytest.raises(TypeError, match="both"):
        PoolFormer({**TINY, "token_mixers": "identity"}, pool_size=5)


def test_dict_arch_of_the_same_numbers_is_the_same_network():
    arch = dict(depths=[2, 2, 6, 2], dims=[64, 128, 320, 512])
    assert PoolFormer(arch).settings == PoolFormer("s12").settings


def test_channels_last(randomize):
    backbone = randomize(MetaFormer(TINY)).eval()
    x = torch.randn(2, 3, 40, 56)
    expected = backbone(x)
    levels = backbone.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(levels, expected, rtol=1e-4, atol=1e-5)
