_base_ = "./ffnet-2_upernet_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(
        arch="3",
        drop_path_rate=0.3,
        layer_scale_init_value=1.0,
        init_cfg=dict(
            checkpoint="https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_3_distillation.pth.tar"
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, num_layers=12))
