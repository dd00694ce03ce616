# No torch checkpoint of this size is known: it starts from random weights.
_base_ = "./mlp-mixer-s32_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(backbone=dict(arch="b32"), neck=dict(in_channels=[96, 192, 384, 768]))
