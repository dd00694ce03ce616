_base_ = "../_base_/upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        type="mmmetaformer.CAFormer",
        arch="s18",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/sail/dl/resolve/main/caformer/caformer_s18.pth",
        ),
    )
)
