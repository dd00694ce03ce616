_base_ = "./convmixer-768-32_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="1536_20",
        init_cfg=dict(
            checkpoint="https://github.com/tmp-iclr/convmixer/releases/download/v1.0/convmixer_1536_20_ks9_p7.pth.tar"
        ),
    ),
    neck=dict(in_channels=[768, 1536, 1536, 1536]),
)
