_base_ = "./mask-rcnn_caformer-s18_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="b36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/caformer/caformer_b36.pth"
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 768]),
)
