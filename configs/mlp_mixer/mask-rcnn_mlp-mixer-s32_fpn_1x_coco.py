# No torch checkpoint of this size is known: it starts from random weights.
_base_ = "../_base_/mask-rcnn_fpn_1x_coco.py"

model = dict(
    # What the published weights of B/16 and L/16 expect; the same for all sizes.
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(type="mmmetaformer.MlpMixer", arch="s32"),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
