"""Parameters and operations of the models of configs."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from model_zoo.counting import Counts, count_config, count_part, image_of


def test_counts_of_a_segmentor_and_of_its_fused_form(root):
    def count(name: str, **options) -> Counts:
        return count_config(Config.fromfile(root / "configs" / f"{name}.py"), **options)

    counts = count("poolformer/poolformer-s12_fpn_8xb4-40k_ade20k-512x512")
    assert counts.parameters == 15_669_846
    assert round(counts.macs / 1e9, 2) == 30.91 and round(counts.mmcv_flops / 1e9, 2) == 30.99
    name = "ffnet/ffnet-2_upernet_8xb2-160k_ade20k-512x512"
    plain, fused = count(name, image=(64, 64)), count(name, image=(64, 64), fused=True)
    assert plain.parameters - fused.parameters == 299_968
    assert fused.macs < plain.macs


def test_counts_of_classifiers(root):
    def config(name: str) -> Config:
        return Config.fromfile(root / f"configs/imagenet/{name}.py")

    assert count_config(config("poolformer-s12_8xb128_in1k")).parameters == 11_915_176
    assert count_config(config("convmixer-768-32_10xb64_in1k")).parameters == 21_110_248
    caformer = config("caformer-s18_8xb128_in1k")
    counts = count_config(caformer)
    assert (round(counts.parameters / 1e6, 2), round(counts.macs / 1e9, 1)) == (26.34, 4.1)
    assert round(count_part(caformer, "backbone") / 1e6, 2) == 23.24
    ffnet = config("ffnet-3_8xb128_in1k-384px")
    assert image_of(ffnet) == (384, 384)
    fused = count_config(ffnet, fused=True)
    assert (round(fused.parameters / 1e6, 2), round(fused.macs / 1e9, 1)) == (48.33, 22.8)


def test_numbers_of_the_frozen_random_matrices(root):
    """N x N of the positions of each stage, times its blocks."""
    cfg = Config.fromfile(root / "configs/imagenet/metaformer-s12-random_8xb128_in1k.py")
    expected = sum(n * side**4 for n, side in zip((2, 2, 6, 2), (56, 28, 14, 7), strict=True))
    assert count_part(cfg, "random matrices") == expected
    with pytest.raises(ValueError, match="unknown part 'neck': expected backbone or"):
        count_part(cfg, "neck")


def test_a_classifier_that_is_tested_without_a_crop(root):
    cfg = Config.fromfile(root / "configs/imagenet/poolformer-s12_8xb128_in1k.py")
    del cfg.test_dataloader.dataset.pipeline[2]
    with pytest.raises(ValueError, match="expected one CenterCrop .* got 0"):
        image_of(cfg)


def test_counting_leaves_the_config_and_the_default_scope_alone(root):
    from mmengine.registry import DefaultScope

    before = DefaultScope.get_current_instance()
    cfg = Config.fromfile(root / "configs/poolformer/poolformer-s12_fpn_8xb4-40k_ade20k-512x512.py")
    text = cfg.pretty_text
    count_config(cfg)
    assert cfg.pretty_text == text
    assert DefaultScope.get_current_instance() is before
