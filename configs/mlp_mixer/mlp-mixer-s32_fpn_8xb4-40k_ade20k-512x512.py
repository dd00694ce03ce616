# No torch checkpoint of this size is known: it starts from random weights.
_base_ = "../_base_/fpn_8xb4-40k_ade20k-512x512.py"

# What the published weights of B/16 and L/16 expect; the same for all sizes.
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(type="mmmetaformer.MlpMixer", arch="s32"),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
