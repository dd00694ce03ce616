_base_ = "./poolformer-s12_8xb128_in1k.py"

model = dict(backbone=dict(type="mmmetaformer.MetaFormer", arch="metaformer_s12_no_norm"))
