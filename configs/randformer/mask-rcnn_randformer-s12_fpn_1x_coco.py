_base_ = "../_base_/mask-rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        type="mmmetaformer.RandFormer",
        arch="s12",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/sail/dl/resolve/main/randformer/randformer_s12.pth",
        ),
    )
)
