# For the evaluation of the weights that were fine-tuned at 384x384; training is at 224x224.
_base_ = "./convformer-m36_8xb128_in1k.py"

# The whole image is in the crop.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=384, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=384),
    dict(type="PackInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
