_base_ = "./convformer-s18_8xb128_in1k.py"

model = dict(backbone=dict(arch="m36", drop_path_rate=0.4), head=dict(in_channels=576))
