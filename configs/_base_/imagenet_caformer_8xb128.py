# ImageNet-1k, 300 epochs: CAFormer in the recipe of the MetaFormer baselines' release, which trains
# it with LAMB. Its LAMB is timm's and clips the norm of all gradients to 1; mmpretrain's is a copy.
_base_ = "./imagenet_convformer_8xb128.py"

model = dict(backbone=dict(type="mmmetaformer.CAFormer", drop_path_rate=0.15))

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="Lamb", lr=8e-3, weight_decay=0.05, eps=1e-6)
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1.25e-4,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=20, end=300),
]
