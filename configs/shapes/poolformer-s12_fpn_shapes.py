# Semantic FPN with PoolFormer-S12 from scratch on the shapes data, small enough for two CPU cores:
# the recipe of ADE20K with a narrower neck and head and a short schedule.
_base_ = "../_base_/fpn_8xb4-40k_ade20k-512x512.py"

channels = 64
norm_cfg = dict(type="BN")
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[63.75] * 3, size=(128, 128)),
    backbone=dict(type="mmmetaformer.PoolFormer", arch="s12", layer_scale_init_value=1.0),
    neck=dict(out_channels=channels, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[channels] * 4, channels=channels, num_classes=7, norm_cfg=norm_cfg
    ),
)

dataset = dict(
    type="BaseSegDataset",
    data_root="data/shapes/ade/",
    reduce_zero_label=True,
    img_suffix=".jpg",
    metainfo=dict(
        classes=("circle", "rectangle", "triangle", "star", "cross", "plain", "striped"),
        palette=[
            (220, 20, 60),
            (0, 110, 230),
            (40, 170, 60),
            (250, 190, 20),
            (150, 60, 200),
            (170, 170, 150),
            (110, 130, 150),
        ],
    ),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomFlip", prob=[0.3, 0.3], direction=["horizontal", "vertical"]),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        **dataset,
        _delete_=True,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        **dataset,
        _delete_=True,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

max_iters = 400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.05), clip_grad=dict(_delete_=True, max_norm=5.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=max_iters, max_keep_ckpts=1)
)
auto_scale_lr = dict(base_batch_size=8)
randomness = dict(seed=0)
