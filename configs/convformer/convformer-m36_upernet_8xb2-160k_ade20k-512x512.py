_base_ = "./convformer-s18_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="m36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/convformer/convformer_m36.pth"
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 576]),
    auxiliary_head=dict(in_channels=384),
)
