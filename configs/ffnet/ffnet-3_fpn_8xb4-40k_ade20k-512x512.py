_base_ = "./ffnet-1_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="3",
        init_cfg=dict(
            checkpoint="https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_3.pth.tar"
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
