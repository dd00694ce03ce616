# ImageNet-1k, 300 epochs: ConvFormer in the recipe of the MetaFormer baselines' release, with a
# classifier of two layers and 20 epochs of warm-up.
_base_ = "./imagenet_metaformer-baselines_8xb128.py"

model = dict(
    backbone=dict(type="mmmetaformer.ConvFormer", arch="s18", drop_path_rate=0.2),
    head=dict(hidden_ratio=4),
)

param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=2.5e-4,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=20, end=300),
]
