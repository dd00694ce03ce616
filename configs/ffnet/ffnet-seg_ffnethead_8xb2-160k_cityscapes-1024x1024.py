# FFNet_seg on Cityscapes, arXiv 2406.02021, as the text of the release's config intends, which
# names a network and a data set file that do not exist.
_base_ = [
    "../_base_/ffnet-seg_ffnethead_8xb2-160k.py",
    "mmseg::_base_/datasets/cityscapes_1024x1024.py",
]

crop_size = (1024, 1024)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(drop_path_rate=0.35),
    decode_head=dict(num_classes=19, head_depth=5, ratio=1, drop_path_rate=0.0),
    test_cfg=dict(mode="slide", crop_size=crop_size, stride=(768, 768)),
)

train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(weight_decay=0.02))
