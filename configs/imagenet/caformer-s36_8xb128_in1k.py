_base_ = "./caformer-s18_8xb128_in1k.py"

model = dict(backbone=dict(arch="s36", drop_path_rate=0.3), head=dict(dropout_ratio=0.4))
