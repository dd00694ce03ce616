# ImageNet-1k, 300 epochs: the recipe of the MetaFormer baselines' release, arXiv 2210.13452, for
# IdentityFormer, RandFormer and PoolFormerV2: AdamW with 4096 images, which are 8 GPUs x 128 and
# gradients of four iterations.
_base_ = "./imagenet_poolformer_8xb128.py"

# The norm of the classifier is behind the pooling; no stage has one.
model = dict(
    backbone=dict(type="mmmetaformer.IdentityFormer"),
    head=dict(type="mmmetaformer.MetaFormerClsHead", init_cfg=None),
)

# The whole image is in the crop.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=224, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

optim_wrapper = dict(accumulative_counts=4, optimizer=dict(lr=4e-3))
param_scheduler = [
    # From 1e-6.
    dict(
        type="LinearLR",
        start_factor=2.5e-4,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=5, end=300),
]
