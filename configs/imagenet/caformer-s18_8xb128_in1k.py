_base_ = "../_base_/imagenet_caformer_8xb128.py"
