_base_ = "../_base_/imagenet_convmixer_10xb64.py"
