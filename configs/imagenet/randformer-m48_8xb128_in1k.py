_base_ = "./randformer-s12_8xb128_in1k.py"

model = dict(backbone=dict(arch="m48", drop_path_rate=0.3), head=dict(in_channels=768))
