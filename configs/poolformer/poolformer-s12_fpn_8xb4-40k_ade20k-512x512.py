_base_ = "../_base_/fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        type="mmmetaformer.PoolFormer",
        arch="s12",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer_s12.pth.tar",
        ),
    )
)
