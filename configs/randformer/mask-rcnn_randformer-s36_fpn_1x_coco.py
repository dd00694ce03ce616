_base_ = "./mask-rcnn_randformer-s12_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="s36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/randformer/randformer_s36.pth"
        ),
    )
)
