# Mask R-CNN, FPN, 1x on COCO: the recipe of PoolFormer's release (8 GPUs x 2 images), which every
# family without a published one shares. A config of a network adds the backbone and, where its
# channels differ, the neck's.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

model = dict(
    backbone=dict(_delete_=True, type="mmmetaformer.PoolFormer", arch="s12"),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

# Twice the 1e-4 of the paper's text: what the released configs say.
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=2e-4, weight_decay=1e-4))
auto_scale_lr = dict(base_batch_size=16)
