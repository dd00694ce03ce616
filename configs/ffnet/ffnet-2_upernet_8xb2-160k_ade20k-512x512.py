# The UPerNet recipe of FFNet's release, arXiv 2406.02021: whole images in testing, both sides up to
# a multiple of 32, and the same learning rate in heads and backbone.
_base_ = '../_base_/upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        type='mmmetaformer.FFNet',
        arch='2',
        inner_norm_cfg=dict(type='SyncBN'),
        drop_path_rate=0.2,
        # The distilled weights, as the release's README says; its configs name the plain ones.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_2_distillation.pth.tar')),
    decode_head=dict(in_channels=[88, 176, 352, 704]),
    auxiliary_head=dict(in_channels=352),
    test_cfg=dict(_delete_=True, mode='whole'))

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

optim_wrapper = dict(
    constructor='mmmetaformer.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, decay_rate=1.0, num_layers=9, as_released=True))
# The release's mmcv 1 counts the polynomial from iteration 0 and multiplies the warm-up onto it.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end=160000, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=4000, max_keep_ckpts=20, save_best='mIoU'))
train_cfg = dict(val_interval=4000)
