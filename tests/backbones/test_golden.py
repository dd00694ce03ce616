"""Outputs of the published implementations on weights rebuilt by formula."""

import numpy as np
import pytest
import torch

from mmmetaformer import convert_state_dict, create_backbone

RAW = dict(out_norm_cfg=None)
PLAIN = dict(out_norm_cfg=None, pyramid=None)
# The released 768/32 weights are those of a ReLU network; the published code, which these outputs
# are from, has GELU unless told otherwise.
CASES = [
    ("poolformer_s12@96x128", "poolformer_s12", RAW),
    ("poolformer_s12_normed@96x128", "poolformer_s12", {}),
    ("poolformer_m36_normed@96x128", "poolformer_m36", {}),
    ("metaformer_pppa_s12_224@224x224", "metaformer_s12_pppa", RAW),
    ("metaformer_pppf_s12_224@224x224", "metaformer_s12_pppf", RAW),
    ("identityformer_s12@96x160", "identityformer_s12", RAW),
    ("convformer_s18@96x160", "convformer_s18", RAW),
    ("caformer_s18@96x160", "caformer_s18", RAW),
    ("randformer_s12@224x224", "randformer_s12", RAW),
    ("ffnet_1@96x128", "ffnet_1", RAW),
    ("ffnet_2@96x128", "ffnet_2", RAW),
    ("convmixer_768_32@112x168", "convmixer_768_32", dict(PLAIN, act_cfg="GELU")),
    ("mixer_s16_224@224x224 (timm layout)", "mlp_mixer_s16", PLAIN),
]


@pytest.mark.parametrize(("case", "arch", "options"), CASES, ids=[case[0] for case in CASES])
def test_golden(case, arch, options, golden, formula):
    entry = golden[case]
    published = {
        name: torch.from_numpy(np.asarray(formula.fill(name, shape)))
        for name, shape in entry["layout"].items()
    }
    backbone = create_backbone(arch, **options).eval()
    backbone.load_state_dict(convert_state_dict(published, backbone), strict=True)
    assert_golden(backbone, entry, formula)
    # Fused, which for all but FFNet is the same network.
    assert_golden(backbone.switch_to_deploy(), entry, formula)


def assert_golden(backbone, entry, formula):
    with torch.no_grad():
        levels = backbone(torch.from_numpy(formula.image(*entry["input"][2:])))
    assert len(levels) == len(entry["features"]) == 4
    for level, expected in zip(levels, entry["features"], strict=True):
        digest = formula.digest(level.numpy())
        assert digest["shape"] == expected["shape"]
        tolerance = 1e-4 * expected["std"]
        assert abs(digest["mean"] - expected["mean"]) < tolerance
        assert abs(digest["std"] - expected["std"]) < tolerance
        np.testing.assert_allclose(digest["samples"], expected["samples"], rtol=0, atol=tolerance)
