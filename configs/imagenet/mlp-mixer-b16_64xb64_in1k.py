_base_ = "../_base_/imagenet_mlp-mixer_64xb64.py"
