_base_ = "./poolformer-s12_8xb128_in1k.py"

model = dict(backbone=dict(type="mmmetaformer.MetaFormer", arch="metaformer_s12_ppff"))

# 224 of 235 pixels: 95 percent.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=235, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
