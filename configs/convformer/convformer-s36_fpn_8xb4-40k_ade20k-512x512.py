_base_ = "./convformer-s18_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="s36",
        init_cfg=dict(
            checkpoint="https://huggingface.co/sail/dl/resolve/main/convformer/convformer_s36.pth"
        ),
    )
)
