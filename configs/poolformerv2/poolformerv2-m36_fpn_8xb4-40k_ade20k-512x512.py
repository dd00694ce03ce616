_base_ = "./poolformerv2-s12_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="m36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/poolformerv2/poolformerv2_m36.pth"
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
