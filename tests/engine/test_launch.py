"""What the tools do to a config before it runs."""

import torch
from mmengine.config import ConfigDict

from mmmetaformer.engine.launch import replace_sync_bn


def test_sync_bn_is_replaced_in_every_spelling():
    model = ConfigDict(
        backbone=dict(norm_cfg=["BN", "SyncBN", dict(type="SyncBN", eps=1e-3), None]),
        neck=dict(norm_cfg=dict(type="mmengine.SyncBN")),
        head=[dict(norm_cfg=dict(type=torch.nn.SyncBatchNorm)), dict(norm_cfg="SyncBN")],
        other="GN",
    )
    replace_sync_bn(model)
    assert model.to_dict() == dict(
        backbone=dict(norm_cfg=["BN", "BN", dict(type="BN", eps=1e-3), None]),
        neck=dict(norm_cfg=dict(type="BN")),
        head=[dict(norm_cfg=dict(type="BN")), dict(norm_cfg="BN")],
        other="GN",
    )
