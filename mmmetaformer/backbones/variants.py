"""The table of variants: pure data.

``FAMILIES`` says what all networks of a family share, ``VARIANTS`` what each one adds. A field may
be a single value or a list of one value per stage; ``arch.py`` says which fields there are,
broadcasts and checks them.
"""

# fmt: off
FAMILIES = {
    # MetaFormer Is Actually What You Need for Vision, arXiv 2111.11418
    "poolformer": dict(
        backbone="PoolFormer",
        settings=dict(
            token_mixers=dict(type="pooling", pool_size=3),
            channel_mixers=dict(type="mlp", ratio=4),
            norm_cfg=dict(type="GN", num_groups=1),
            act_cfg=dict(type="GELU"),
            layer_scale_init_value=1e-5,
            stem=dict(type="ConvDownsampling", kernel_size=7, stride=4, padding=2),
            downsampling=dict(type="ConvDownsampling", kernel_size=3, stride=2, padding=1),
            out_norm_cfg=dict(type="GN", num_groups=1),
        ),
    ),
}

VARIANTS = {
    "poolformer_s12": dict(family="poolformer", depths=[2, 2, 6, 2], dims=[64, 128, 320, 512]),
    "poolformer_s24": dict(family="poolformer", depths=[4, 4, 12, 4], dims=[64, 128, 320, 512]),
    "poolformer_s36": dict(family="poolformer", depths=[6, 6, 18, 6], dims=[64, 128, 320, 512], layer_scale_init_value=1e-6),  # noqa: E501
    "poolformer_m36": dict(family="poolformer", depths=[6, 6, 18, 6], dims=[96, 192, 384, 768], layer_scale_init_value=1e-6),  # noqa: E501
    "poolformer_m48": dict(family="poolformer", depths=[8, 8, 24, 8], dims=[96, 192, 384, 768], layer_scale_init_value=1e-6),  # noqa: E501
}
# fmt: on
