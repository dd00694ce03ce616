# FFNet_seg and its head, 160k iterations of 8 GPUs x 2 images: the recipe of FFNet's release, arXiv
# 2406.02021, without data.
# Importing mmmetaformer lets mmengine find mmseg's configs beside onedl-mmsegmentation, too.
_base_ = __import__('mmmetaformer') and [
    'mmseg::_base_/schedules/schedule_160k.py',
    'mmseg::_base_/default_runtime.py',
]

norm_cfg = dict(type='SyncBN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(
        type='mmmetaformer.FFNet',
        arch='seg',
        out_indices=(1, 2, 3),
        inner_norm_cfg=norm_cfg,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_seg.pth.tar')),
    decode_head=dict(
        type='mmmetaformer.FFNetHead',
        in_channels=[192, 384, 768],
        channels=1024,
        head_width=256,
        spatial_kernel=9,
        channel_kernel=9,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict())

# The release's custom key 'norm' is to exempt norms from weight decay, but its norms are called bn
# and so had it; the published results were trained so, and nothing is exempt here either.
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))))
# The release's mmcv 1 counts the polynomial from iteration 0 and multiplies the warm-up onto it.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end=160000, by_epoch=False),
]
train_cfg = dict(val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
auto_scale_lr = dict(enable=False, base_batch_size=16)
