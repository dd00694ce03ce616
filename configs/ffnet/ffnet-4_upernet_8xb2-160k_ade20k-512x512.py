_base_ = "./ffnet-3_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="4",
        init_cfg=dict(
            checkpoint="https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_4_384.pth.tar"
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
