_base_ = "./convformer-s18_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="b36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/convformer/convformer_b36.pth"
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 768]),
    auxiliary_head=dict(in_channels=512),
)
