_base_ = "../_base_/imagenet_convformer_8xb128.py"
