# ImageNet-1k, 300 epochs: the recipe of ConvMixer's release (10 GPUs x 64 images), arXiv
# 2201.09792. The learning rate rises over two fifths of the epochs, falls to a twentieth over two
# more and to nothing over the last.
_base_ = "./imagenet_poolformer_8xb128.py"

model = dict(
    backbone=dict(
        _delete_=True, type="mmmetaformer.ConvMixer", arch="768_32", out_indices=(3,), pyramid=None
    ),
    head=dict(in_channels=768, init_cfg=None),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.5), dict(type="CutMix", alpha=0.5)]),
)

# 224 of 233 pixels: 96 percent.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=233, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))

# The published command leaves timm's default weight decay of that time.
optim_wrapper = dict(
    optimizer=dict(lr=0.01, weight_decay=2e-5, eps=1e-3), clip_grad=dict(max_norm=1.0)
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=120,
        convert_to_iter_based=True,
    ),
    dict(
        type="LinearLR",
        start_factor=1.0,
        end_factor=0.05,
        by_epoch=True,
        begin=120,
        end=240,
        convert_to_iter_based=True,
    ),
    dict(
        type="LinearLR",
        start_factor=1.0,
        end_factor=0.0,
        by_epoch=True,
        begin=240,
        end=300,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=640)
