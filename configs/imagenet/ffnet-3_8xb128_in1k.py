_base_ = "./ffnet-1_8xb128_in1k.py"

model = dict(backbone=dict(arch="3", drop_path_rate=0.35), head=dict(in_channels=768))

# 256 of 269 pixels: 95 percent.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=269, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=256),
    dict(type="PackInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
