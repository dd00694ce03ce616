_base_ = "./mlp-mixer-b16_64xb64_in1k.py"

model = dict(backbone=dict(arch="l16"), head=dict(in_channels=1024))
