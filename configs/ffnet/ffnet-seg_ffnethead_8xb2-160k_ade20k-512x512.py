# FFNet_seg on ADE20K as released, arXiv 2406.02021.
_base_ = [
    "../_base_/ffnet-seg_ffnethead_8xb2-160k.py",
    "mmseg::_base_/datasets/ade20k.py",
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(drop_path_rate=0.3),
    decode_head=dict(num_classes=150, head_depth=3, ratio=4, drop_path_rate=0.1),
    test_cfg=dict(mode="whole"),
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="ResizeToMultiple", size_divisor=32),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(batch_size=2)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
