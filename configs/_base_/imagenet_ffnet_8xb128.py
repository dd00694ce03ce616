# ImageNet-1k, 300 epochs at 256x256: the defaults of FFNet's training script, arXiv
# 2406.02021, with 128 images per GPU, without its distillation. The number of GPUs is not said; 8
# is PoolFormer's.
_base_ = "./imagenet_poolformer_8xb128.py"

# The classifier's norm is a BatchNorm of the map in front of the pooling.
model = dict(
    backbone=dict(type="mmmetaformer.FFNet", arch="1", out_norm_cfg=dict(type="BN")),
    head=dict(in_channels=640),
)

bgr_mean, bgr_std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=256, backend="pillow", interpolation="bicubic"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(
        type="RandAugment",
        policies="timm_increasing",
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation="bicubic"),
    ),
    dict(
        type="RandomErasing",
        erase_prob=0.25,
        mode="rand",
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=bgr_std,
    ),
    dict(type="PackInputs"),
]
# 256 of 284 pixels: nine tenths.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=284, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=256),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# Its LayerScale has three dimensions and with them weight decay.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"layer_scale": dict(decay_mult=1.0)}))
custom_hooks = [
    dict(type="mmmetaformer.engine.hooks.PublishedClassifierHook"),
    # The script averages with 0.9995.
    dict(type="EMAHook", momentum=5e-4, update_buffers=True),
]
