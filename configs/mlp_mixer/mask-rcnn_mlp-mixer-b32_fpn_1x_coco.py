# No torch checkpoint of this size is known: it starts from random weights.
_base_ = "./mask-rcnn_mlp-mixer-s32_fpn_1x_coco.py"

model = dict(backbone=dict(arch="b32"), neck=dict(in_channels=[96, 192, 384, 768]))
