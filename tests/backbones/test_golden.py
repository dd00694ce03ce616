"""Outputs of the published implementations on weights rebuilt by formula."""

import numpy as np
import pytest
import torch

from mmmetaformer import convert_state_dict, create_backbone

CASES = [
    ("poolformer_s12@96x128", "poolformer_s12", dict(out_norm_cfg=None)),
    ("poolformer_s12_normed@96x128", "poolformer_s12", {}),
    ("poolformer_m36_normed@96x128", "poolformer_m36", {}),
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
    with torch.no_grad():
        levels = backbone(torch.from_numpy(formula.image(*entry["input"][2:])))
    assert len(levels) == len(entry["features"]) == 4
    for level, expected in zip(levels, entry["features"], strict=True):
        digest = formula.digest(level.numpy())
        assert digest["shape"] == expected["shape"]
        tolerance = 3e-5 * expected["std"]
        assert abs(digest["mean"] - expected["mean"]) < tolerance
        assert abs(digest["std"] - expected["std"]) < tolerance
        np.testing.assert_allclose(digest["samples"], expected["samples"], rtol=0, atol=tolerance)
