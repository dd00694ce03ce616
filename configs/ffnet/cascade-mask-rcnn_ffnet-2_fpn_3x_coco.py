# The detection recipe of FFNet's release, arXiv 2406.02021.
_base_ = "../_base_/cascade-mask-rcnn_4conv1fc-giou_fpn_ms-crop-3x_coco.py"

model = dict(
    backbone=dict(
        type="mmmetaformer.FFNet",
        arch="2",
        inner_norm_cfg=dict(type="SyncBN"),
        drop_path_rate=0.35,
        # The distilled weights, as the release's README says; its configs name the plain ones.
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_2_distillation.pth.tar",
        ),
    ),
    neck=dict(in_channels=[88, 176, 352, 704]),
)

optim_wrapper = dict(
    constructor="mmmetaformer.LayerDecayOptimWrapperConstructor",
    # as_released: the stem at the full rate and weight decay on LayerScale, as the published
    # results were trained.
    paramwise_cfg=dict(decay_rate=0.8, num_layers=12, as_released=True),
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=5, save_best="auto"))
