_base_ = "./mask-rcnn_convmixer-768-32_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="1024_20",
        init_cfg=dict(
            checkpoint="https://github.com/tmp-iclr/convmixer/releases/download/v1.0/convmixer_1024_20_ks9_p14.pth.tar"
        ),
    ),
    neck=dict(in_channels=[256, 512, 1024, 1024]),
)
