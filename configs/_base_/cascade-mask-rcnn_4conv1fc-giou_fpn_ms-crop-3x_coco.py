# Cascade Mask R-CNN, FPN, 3x on COCO (8 GPUs x 2 images): heads of four convolutions with SyncBN,
# GIoU loss and multi-scale augmentation with crops, which are those of mmdet's ConvNeXt config, in
# the schedule of FFNet's release: float32, warm-up of 500 iterations, no clipping.
_base_ = [
    "mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py",
]
custom_imports = None  # mmpretrain, for its ConvNeXt

model = dict(
    backbone=dict(_delete_=True, type="mmmetaformer.PoolFormer", arch="s12"),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
auto_scale_lr = dict(base_batch_size=16)
