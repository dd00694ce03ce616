_base_ = "./mask-rcnn_convformer-s18_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="m36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/convformer/convformer_m36.pth"
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 576]),
)
