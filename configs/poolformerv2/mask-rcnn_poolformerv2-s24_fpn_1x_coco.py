_base_ = "./mask-rcnn_poolformerv2-s12_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="s24",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/poolformerv2/poolformerv2_s24.pth"
        ),
    )
)
