_base_ = "./cascade-mask-rcnn_ffnet-3_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        arch="4",
        init_cfg=dict(
            checkpoint="https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_4_384.pth.tar"
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)

custom_hooks = [
    dict(
        type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0001, update_buffers=True, priority=49
    ),
]
