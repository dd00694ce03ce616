_base_ = "./ffnet-3_8xb128_in1k.py"

model = dict(backbone=dict(arch="4", drop_path_rate=0.4), head=dict(in_channels=1024))
