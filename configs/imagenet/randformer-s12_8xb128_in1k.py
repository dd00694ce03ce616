_base_ = "../_base_/imagenet_metaformer-baselines_8xb128.py"

model = dict(backbone=dict(type="mmmetaformer.RandFormer"))
