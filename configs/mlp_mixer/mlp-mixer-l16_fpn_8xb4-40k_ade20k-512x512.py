_base_ = "./mlp-mixer-s32_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="l16",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://download.openmmlab.com/mmclassification/v0/mlp-mixer/mixer-large-p16_3rdparty_64xb64_in1k_20211124-5a2519d2.pth",
        ),
    ),
    neck=dict(in_channels=[256, 512, 1024, 1024]),
)
