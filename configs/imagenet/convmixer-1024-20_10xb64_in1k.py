_base_ = "./convmixer-1536-20_10xb64_in1k.py"

model = dict(backbone=dict(arch="1024_20"), head=dict(in_channels=1024))
