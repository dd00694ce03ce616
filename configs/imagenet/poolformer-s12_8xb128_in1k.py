_base_ = "../_base_/imagenet_poolformer_8xb128.py"
