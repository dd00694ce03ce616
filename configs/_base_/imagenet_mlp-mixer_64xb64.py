# MLP-Mixer on ImageNet-1k as mmpretrain has it, which is the recipe of ViT; the published weights
# were trained on other data with other images. For them the images are between -1 and 1.
_base_ = [
    "mmpretrain::_base_/datasets/imagenet_bs64_mixer_224.py",
    "mmpretrain::_base_/schedules/imagenet_bs4096_AdamW.py",
    "mmpretrain::_base_/default_runtime.py",
]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmmetaformer.MlpMixer", arch="b16", out_indices=(3,), pyramid=None),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=768,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
)

optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
custom_hooks = [dict(type="mmmetaformer.engine.hooks.PublishedClassifierHook")]
