_base_ = "./convmixer-768-32_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="1024_20",
        init_cfg=dict(
            checkpoint="https://github.com/tmp-iclr/convmixer/releases/download/v1.0/convmixer_1024_20_ks9_p14.pth.tar"
        ),
    ),
    neck=dict(in_channels=[256, 512, 1024, 1024]),
)
