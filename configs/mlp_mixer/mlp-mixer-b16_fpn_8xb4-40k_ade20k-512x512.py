_base_ = "./mlp-mixer-s32_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="b16",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://download.openmmlab.com/mmclassification/v0/mlp-mixer/mixer-base-p16_3rdparty_64xb64_in1k_20211124-1377e3e0.pth",
        ),
    ),
    neck=dict(in_channels=[192, 384, 768, 768]),
)
