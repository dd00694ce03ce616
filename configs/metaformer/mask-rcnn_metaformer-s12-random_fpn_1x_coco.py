# The release has no weights of this network nor of those that inherit from this config: they
# start from random ones.
_base_ = "../_base_/mask-rcnn_fpn_1x_coco.py"

model = dict(backbone=dict(type="mmmetaformer.MetaFormer", arch="metaformer_s12_random"))
