"""Parts that replace pretrained ones are named, or the loading stops."""

import pytest
import torch

from mmmetaformer import PoolFormer
from mmmetaformer.weights import WeightsError

TINY = dict(depths=[1, 1, 1, 1], dims=[32, 32, 64, 64])
HYBRID = ["pooling", "pooling", "pooling", "attention"]


@pytest.fixture
def checkpoint(tmp_path, randomize):
    path = tmp_path / "pooling.pth"
    torch.save(randomize(PoolFormer(TINY)).state_dict(), path)
    return path


def load(checkpoint, new=None, **options) -> PoolFormer:
    init_cfg = dict(type="Pretrained", checkpoint=str(checkpoint))
    backbone = PoolFormer(
        TINY, init_cfg=init_cfg | ({} if new is None else {"new": new}), **options
    )
    backbone.init_weights()
    return backbone


def test_a_mixer_that_the_weights_lack_stops_the_loading(checkpoint):
    with pytest.raises(WeightsError, match=r"3 missing: .*token_mixer\.qkv.*new=\['token_mixer'\]"):
        load(checkpoint, token_mixers=[*HYBRID[:3], dict(type="attention", proj_bias=True)])


@pytest.mark.parametrize("new", ["token_mixer", ["token_mixer"], [r"stages\.3\..*token_mixer"]])
def test_a_mixer_that_is_declared_new_starts_anew(checkpoint, new):
    backbone = load(checkpoint, new, token_mixers=HYBRID)
    source = torch.load(checkpoint, weights_only=True)
    for name, value in backbone.state_dict().items():
        own = "token_mixer" in name
        assert own or torch.equal(value, source[name]), name
    qkv = backbone.stages[3][0].token_mixer.qkv.weight
    assert float(qkv.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_what_is_declared_new_is_not_taken_from_the_source(checkpoint):
    backbone = load(checkpoint, [r"\.norm[12]\."], norm_cfg="BN")
    assert torch.equal(backbone.stages[0][0].norm1.weight, torch.ones(32))
    source = torch.load(checkpoint, weights_only=True)
    assert torch.equal(backbone.stages[0][0].mlp.fc1.weight, source["stages.0.0.mlp.fc1.weight"])


def test_other_losses_still_stop_it(checkpoint):
    narrow = dict(type="mlp", ratio=2)
    with pytest.raises(WeightsError, match="of another shape"):
        load(checkpoint, ["token_mixer"], token_mixers=HYBRID, channel_mixers=narrow)


def test_a_pattern_that_fits_nothing_is_named(checkpoint):
    with pytest.raises(WeightsError, match=r"new=\['token_mixr'\] fits no parameter"):
        load(checkpoint, ["token_mixer", "token_mixr"], token_mixers=HYBRID)


@pytest.mark.parametrize("mixer", ["identity", "pooling", "fourier"])
def test_a_part_without_parameters_in_place_of_one_with_some(tmp_path, randomize, mixer):
    path = tmp_path / "attention.pth"
    torch.save(randomize(PoolFormer(TINY, token_mixers="attention")).state_dict(), path)
    with pytest.raises(WeightsError, match=r"unexpected: .*new=\['token_mixer'\]"):
        load(path, token_mixers=mixer)
    backbone = load(path, ["token_mixer"], token_mixers=mixer)
    source = torch.load(path, weights_only=True)
    assert all(torch.equal(value, source[name]) for name, value in backbone.state_dict().items())
