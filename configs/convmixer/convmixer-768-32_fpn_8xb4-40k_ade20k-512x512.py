_base_ = "../_base_/fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        type="mmmetaformer.ConvMixer",
        arch="768_32",
        # BatchNorm everywhere: the statistics of pre-training are better than those of a few
        # images per GPU.
        norm_eval=True,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/tmp-iclr/convmixer/releases/download/v1.0/convmixer_768_32_ks7_p7_relu.pth.tar",
        ),
    ),
    neck=dict(in_channels=[384, 768, 768, 768]),
)
