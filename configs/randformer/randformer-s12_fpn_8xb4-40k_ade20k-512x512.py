_base_ = "../_base_/fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        type="mmmetaformer.RandFormer",
        arch="s12",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/sail/dl/resolve/main/randformer/randformer_s12.pth",
        ),
    )
)
