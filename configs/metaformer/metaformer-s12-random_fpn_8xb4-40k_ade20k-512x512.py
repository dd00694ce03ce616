# The release has no weights of this network nor of those that inherit from this config: they
# start from random ones.
_base_ = "../_base_/fpn_8xb4-40k_ade20k-512x512.py"

model = dict(backbone=dict(type="mmmetaformer.MetaFormer", arch="metaformer_s12_random"))
