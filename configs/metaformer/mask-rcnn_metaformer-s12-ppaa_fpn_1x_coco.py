_base_ = "./mask-rcnn_metaformer-s12-identity_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        arch="metaformer_s12_ppaa",
        init_cfg=dict(
            checkpoint="https://github.com/sail-sg/poolformer/releases/download/v1.0/metaformer_ppaa_s12_224.pth.tar"
        ),
    )
)
