_base_ = "./convformer-s18_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="b36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/convformer/convformer_b36.pth"
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 768]),
)
