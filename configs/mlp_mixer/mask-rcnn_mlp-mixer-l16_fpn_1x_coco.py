_base_ = "./mask-rcnn_mlp-mixer-s32_fpn_1x_coco.py"

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
