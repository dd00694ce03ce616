_base_ = "./mask-rcnn_ffnet-1_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="3",
        init_cfg=dict(
            checkpoint="https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_3.pth.tar"
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
