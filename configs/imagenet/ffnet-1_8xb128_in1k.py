_base_ = "../_base_/imagenet_ffnet_8xb128.py"
