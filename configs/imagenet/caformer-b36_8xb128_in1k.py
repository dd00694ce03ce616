_base_ = "./caformer-s18_8xb128_in1k.py"

model = dict(
    backbone=dict(arch="b36", drop_path_rate=0.6), head=dict(in_channels=768, dropout_ratio=0.5)
)
