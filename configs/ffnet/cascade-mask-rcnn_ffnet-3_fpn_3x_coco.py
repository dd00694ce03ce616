_base_ = "./cascade-mask-rcnn_ffnet-2_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        arch="3",
        drop_path_rate=0.6,
        layer_scale_init_value=1.0,
        init_cfg=dict(
            checkpoint="https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_3_distillation.pth.tar"
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
