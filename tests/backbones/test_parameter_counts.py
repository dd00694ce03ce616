"""Published parameter counts, of the classifier and under each head."""

import pytest

from mmmetaformer import create_backbone, list_archs

# ImageNet model: backbone, final GroupNorm and a linear classifier of 1000 classes.
IMAGENET = {
    "poolformer_s12": 11_915_176,
    "poolformer_s24": 21_388_968,
    "poolformer_s36": 30_862_760,
    "poolformer_m36": 56_172_520,
    "poolformer_m48": 73_473_448,
}


def test_the_table_is_complete():
    assert set(IMAGENET) == set(list_archs())


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_model(name):
    backbone = create_backbone(name, out_norm_cfg=None)
    channels = backbone.out_channels[-1]
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count + 2 * channels + 1000 * channels + 1000 == IMAGENET[name]
