_base_ = "./metaformer-s12-identity_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="metaformer_s12_ppaa",
        init_cfg=dict(
            checkpoint="https://github.com/sail-sg/poolformer/releases/download/v1.0/metaformer_ppaa_s12_224.pth.tar"
        ),
    )
)
