# ImageNet-1k, 300 epochs: the recipe of PoolFormer's release (8 GPUs x 128 images), arXiv
# 2111.11418. As in its optimiser, biases and parameters of one dimension have no weight decay.
_base_ = [
    "mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py",
    "mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py",
    "mmpretrain::_base_/default_runtime.py",
]

# What the backbone emits is behind its output norm, which is the norm of the published classifier.
model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmmetaformer.PoolFormer", arch="s12", out_indices=(3,), drop_path_rate=0.1),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=512,
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)

# Five epochs of warm-up; 1e-3 of the learning rate is 1e-6.
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=5, end=300),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="auto"))
# Published files load as they are.
custom_hooks = [dict(type="mmmetaformer.engine.hooks.PublishedClassifierHook")]
