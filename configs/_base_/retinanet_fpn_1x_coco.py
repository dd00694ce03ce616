# RetinaNet, FPN, 1x on COCO: the recipe of PoolFormer's release (8 GPUs x 2 images). The backbone
# emits stages 1 to 3 only, so that no output norm of stage 0 is left without a gradient.
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

model = dict(
    backbone=dict(_delete_=True, type="mmmetaformer.PoolFormer", arch="s12", out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 320, 512], start_level=0),
)

optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=1e-4))
auto_scale_lr = dict(base_batch_size=16)
