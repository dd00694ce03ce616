_base_ = "./mask-rcnn_ffnet-1_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="4",
        init_cfg=dict(
            checkpoint="https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_4_384.pth.tar"
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
