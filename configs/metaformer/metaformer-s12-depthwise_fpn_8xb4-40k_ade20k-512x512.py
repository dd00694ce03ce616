_base_ = "./metaformer-s12-random_fpn_8xb4-40k_ade20k-512x512.py"

model = dict(backbone=dict(arch="metaformer_s12_depthwise"))
