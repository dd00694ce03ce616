_base_ = "./poolformer-m36_8xb128_in1k.py"

model = dict(backbone=dict(arch="m48", drop_path_rate=0.4))
