_base_ = "./randformer-s12_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="s36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/randformer/randformer_s36.pth"
        ),
    )
)
