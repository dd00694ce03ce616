_base_ = "./mask-rcnn_metaformer-s12-random_fpn_1x_coco.py"

model = dict(backbone=dict(arch="metaformer_s12_bn"))
