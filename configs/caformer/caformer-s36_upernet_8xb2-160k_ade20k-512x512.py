_base_ = "./caformer-s18_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="s36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/caformer/caformer_s36.pth"
        ),
    )
)
