_base_ = "../_base_/mask-rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        type="mmmetaformer.MetaFormer",
        arch="metaformer_s12_identity",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/sail-sg/poolformer/releases/download/v1.0/metaformer_id_s12.pth.tar",
        ),
    )
)
