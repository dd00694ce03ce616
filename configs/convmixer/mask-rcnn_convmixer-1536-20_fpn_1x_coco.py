_base_ = "./mask-rcnn_convmixer-768-32_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="1536_20",
        init_cfg=dict(
            checkpoint="https://github.com/tmp-iclr/convmixer/releases/download/v1.0/convmixer_1536_20_ks9_p7.pth.tar"
        ),
    ),
    neck=dict(in_channels=[768, 1536, 1536, 1536]),
)
