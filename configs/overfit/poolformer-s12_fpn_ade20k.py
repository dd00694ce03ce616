# Semantic FPN with PoolFormer-S12 from scratch on the training images of a small ADE20K folder,
# evaluated on the same ones. Real classes and formats, small maps.
_base_ = "../_base_/fpn_8xb4-40k_ade20k-512x512.py"

channels = 96
norm_cfg = dict(type="GN", num_groups=8)
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(type="mmmetaformer.PoolFormer", arch="s12", layer_scale_init_value=1.0),
    neck=dict(out_channels=channels, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=[channels] * 4, channels=channels, norm_cfg=norm_cfg),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="Resize", scale=(256, 256)),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(256, 256)),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(batch_size=3, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

max_iters = 200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.0), clip_grad=dict(_delete_=True, max_norm=5.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=30, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=max_iters, max_keep_ckpts=1)
)
