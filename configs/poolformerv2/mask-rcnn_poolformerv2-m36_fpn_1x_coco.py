_base_ = "./mask-rcnn_poolformerv2-s12_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="m36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/poolformerv2/poolformerv2_m36.pth"
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
