# FFNet in PoolFormer's recipe; its own are another.
_base_ = "../_base_/mask-rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        type="mmmetaformer.FFNet",
        arch="1",
        inner_norm_cfg=dict(type="SyncBN"),
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_1.pth.tar",
        ),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
