# UPerNet, 160k iterations on ADE20K: the recipe reported for ConvFormer and CAFormer, whose authors
# released no code for it. It does not name the number of images; 16 (8 GPUs x 2) is mmseg's usual.
# Importing mmmetaformer lets mmengine find mmseg's configs beside onedl-mmsegmentation, too.
_base_ = __import__('mmmetaformer') and [
    'mmseg::_base_/models/upernet_r50.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_160k.py',
    'mmseg::_base_/default_runtime.py',
]

data_preprocessor = dict(size=(512, 512))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(
        _delete_=True, type='mmmetaformer.ConvFormer', arch='s18', drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=150),
    auxiliary_head=dict(in_channels=320, num_classes=150),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))

train_dataloader = dict(batch_size=2)

# The longest custom key in a parameter's name counts, and norm_decay_mult is for parameters without
# any: the norms of the heads, which mmcv names bn, need keys of their own.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            '_head': dict(lr_mult=10.0),
            '.bn.weight': dict(lr_mult=10.0, decay_mult=0.0),
            '.bn.bias': dict(lr_mult=10.0, decay_mult=0.0),
        }))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
