"""The table of variants: pure data.

``FAMILIES`` says what all networks of a family share, ``VARIANTS`` what each one adds. A field may
be a single value or a list of one value per stage; ``backbones/arch.py`` says which fields there
are, broadcasts and checks them.
"""

import difflib
from fnmatch import fnmatchcase
from typing import Any

# fmt: off
_GELU = dict(type="GELU")
_GN1 = dict(type="GN", num_groups=1)
_LN = dict(type="LN2d", eps=1e-6)
_LN_NO_BIAS = dict(type="LN2d", eps=1e-6, bias=False)
_MLN_NO_BIAS = dict(type="MLN", eps=1e-6, bias=False)
_NORMAL = dict(type="TruncNormal", layer="Conv2d", std=0.02)
_XAVIER = dict(type="Xavier", layer="Conv2d", distribution="uniform")

# MetaFormer Is Actually What You Need for Vision, arXiv 2111.11418
_POOLFORMER = dict(
    token_mixers=dict(type="pooling", pool_size=3),
    channel_mixers=dict(type="mlp", ratio=4),
    norm_cfg=_GN1,
    act_cfg=_GELU,
    layer_scale_init_value=1e-5,
    stem=dict(type="ConvDownsampling", kernel_size=7, stride=4, padding=2),
    downsampling=dict(type="ConvDownsampling", kernel_size=3, stride=2, padding=1),
    out_norm_cfg=_GN1,
)

# MetaFormer Baselines for Vision, arXiv 2210.13452. Its networks have no norm per stage.
_BASELINE = dict(
    channel_mixers=dict(type="mlp", ratio=4, bias=False),
    act_cfg=dict(type="StarReLU"),
    res_scale_init_value=[None, None, 1.0, 1.0],
    stem=dict(type="ConvDownsampling", kernel_size=7, stride=4, padding=2, post_norm_cfg=_LN_NO_BIAS, init_cfg=_NORMAL),  # noqa: E501
    downsampling=dict(type="ConvDownsampling", kernel_size=3, stride=2, padding=1, pre_norm_cfg=_LN_NO_BIAS, init_cfg=_NORMAL),  # noqa: E501
    out_norm_cfg=None,
)

FAMILIES: dict[str, dict[str, Any]] = {
    "poolformer": dict(backbone="PoolFormer", structure="hierarchical", settings=_POOLFORMER),
    # The ablation of PoolFormer's paper: PoolFormer-S12 with one thing changed.
    "metaformer": dict(backbone="MetaFormer", structure="hierarchical", settings=_POOLFORMER),
    "identityformer": dict(backbone="IdentityFormer", structure="hierarchical", settings=dict(
        _BASELINE, token_mixers="identity", norm_cfg=_MLN_NO_BIAS)),
    "randformer": dict(backbone="RandFormer", structure="hierarchical", settings=dict(
        _BASELINE, token_mixers=["identity", "identity", "random_matrix", "random_matrix"], norm_cfg=_MLN_NO_BIAS)),  # noqa: E501
    "poolformerv2": dict(backbone="PoolFormerV2", structure="hierarchical", settings=dict(
        _BASELINE, token_mixers=dict(type="pooling", pool_size=3), norm_cfg=_MLN_NO_BIAS)),
    "convformer": dict(backbone="ConvFormer", structure="hierarchical", settings=dict(
        _BASELINE, token_mixers="sepconv", norm_cfg=_LN_NO_BIAS)),
    "caformer": dict(backbone="CAFormer", structure="hierarchical", settings=dict(
        _BASELINE, token_mixers=["sepconv", "sepconv", "attention", "attention"], norm_cfg=_LN_NO_BIAS)),  # noqa: E501
    # MetaMixer, arXiv 2406.02021
    "ffnet": dict(backbone="FFNet", structure="hierarchical", settings=dict(
        token_mixers=[dict(type="ffnified_attention", kernel_size=size) for size in (3, 3, 7, 7)],
        channel_mixers=dict(type="convnext", kernel_size=7, ratio=3),
        norm_cfg=None, act_cfg=_GELU,
        stem=dict(type="ConvStem", stride=4),
        downsampling=dict(type="RepDownsampling", stride=2),
        out_norm_cfg=_LN, pretrain_size=256)),
    # Patches Are All You Need?, arXiv 2201.09792: the pointwise mixer has no residual.
    "convmixer": dict(backbone="ConvMixer", structure="isotropic", settings=dict(
        token_mixers="depthwise_act_norm", channel_mixers="pointwise",
        norm_cfg=None, act_cfg=_GELU, residual=(True, False))),
    # MLP-Mixer: An all-MLP Architecture for Vision, arXiv 2105.01601
    "mlp_mixer": dict(backbone="MlpMixer", structure="isotropic", settings=dict(
        token_mixers=dict(type="token_mlp", ratio=0.5),
        channel_mixers=dict(type="mlp", ratio=4, init_cfg=_XAVIER),
        norm_cfg=_LN, act_cfg=_GELU, out_norm_cfg=_LN)),
}

_S12 = dict(depths=[2, 2, 6, 2], dims=[64, 128, 320, 512])
_S24 = dict(depths=[4, 4, 12, 4], dims=[64, 128, 320, 512])
_S36 = dict(depths=[6, 6, 18, 6], dims=[64, 128, 320, 512])
_M36 = dict(depths=[6, 6, 18, 6], dims=[96, 192, 384, 768])
_M48 = dict(depths=[8, 8, 24, 8], dims=[96, 192, 384, 768])

_ABLATION = dict(family="metaformer", **_S12)
# The release normalises hybrids with attention over the channels of each position, and those with
# spatial MLPs as PoolFormer.
_LN_EPS5 = dict(type="LN2d", eps=1e-5)
_LN_ABLATION = dict(_ABLATION, norm_cfg=_LN_EPS5, out_norm_cfg=_LN_EPS5)
_ATTENTION = dict(type="attention", head_dim=32, proj_bias=True)


def _convmixer(dim, depth, kernel_size, patch_size, act_cfg=_GELU):
    return dict(
        family="convmixer", dim=dim, depth=depth, act_cfg=act_cfg,
        stem=dict(type="PatchActNorm", patch_size=patch_size),
        token_mixers=dict(type="depthwise_act_norm", kernel_size=kernel_size),
    )


def _mlp_mixer(dim, depth, patch_size):
    init_cfg = dict(type="Kaiming", layer="Conv2d", mode="fan_in", nonlinearity="linear")
    stem = dict(type="PatchEmbedding", patch_size=patch_size, init_cfg=init_cfg)
    return dict(family="mlp_mixer", dim=dim, depth=depth, stem=stem)


VARIANTS: dict[str, dict[str, Any]] = {
    "poolformer_s12": dict(family="poolformer", **_S12),
    "poolformer_s24": dict(family="poolformer", **_S24),
    "poolformer_s36": dict(family="poolformer", **_S36, layer_scale_init_value=1e-6),
    "poolformer_m36": dict(family="poolformer", **_M36, layer_scale_init_value=1e-6),
    "poolformer_m48": dict(family="poolformer", **_M48, layer_scale_init_value=1e-6),

    "metaformer_s12_identity": dict(_ABLATION, token_mixers="identity"),
    "metaformer_s12_random": dict(_ABLATION, token_mixers="random_matrix"),
    "metaformer_s12_depthwise": dict(_ABLATION, token_mixers="depthwise"),
    "metaformer_s12_pool5": dict(_ABLATION, token_mixers=dict(type="pooling", pool_size=5)),
    "metaformer_s12_pool7": dict(_ABLATION, token_mixers=dict(type="pooling", pool_size=7)),
    "metaformer_s12_pool9": dict(_ABLATION, token_mixers=dict(type="pooling", pool_size=9)),
    "metaformer_s12_ln": dict(_LN_ABLATION),
    "metaformer_s12_bn": dict(_ABLATION, norm_cfg=dict(type="BN"), out_norm_cfg=dict(type="BN")),
    "metaformer_s12_no_norm": dict(_ABLATION, norm_cfg=None),
    "metaformer_s12_relu": dict(_ABLATION, act_cfg="ReLU"),  # noqa: E501
    "metaformer_s12_silu": dict(_ABLATION, act_cfg=dict(type="SiLU")),
    "metaformer_s12_no_residual": dict(_ABLATION, residual=False),
    "metaformer_s12_no_mlp": dict(_ABLATION, channel_mixers=None),
    "metaformer_s12_pppa": dict(_LN_ABLATION, token_mixers=["pooling", "pooling", "pooling", _ATTENTION], pos_embed_sizes=[None, None, None, 7]),  # noqa: E501
    "metaformer_s12_ppaa": dict(_LN_ABLATION, token_mixers=["pooling", "pooling", _ATTENTION, _ATTENTION], pos_embed_sizes=[None, None, 14, None]),  # noqa: E501
    "metaformer_s12_pppf": dict(_ABLATION, token_mixers=["pooling", "pooling", "pooling", "spatial_fc"]),  # noqa: E501
    "metaformer_s12_ppff": dict(_ABLATION, token_mixers=["pooling", "pooling", "spatial_fc", "spatial_fc"]),  # noqa: E501

    **{
        f"{family}_{size}": dict(family=family, **row)
        for family in ("identityformer", "randformer", "poolformerv2")
        for size, row in dict(s12=_S12, s24=_S24, s36=_S36, m36=_M36, m48=_M48).items()
    },
    **{
        f"{family}_{size}": dict(family=family, depths=depths, dims=dims)
        for family in ("convformer", "caformer")
        for size, depths, dims in (
            ("s18", [3, 3, 9, 3], [64, 128, 320, 512]),
            ("s36", [3, 12, 18, 3], [64, 128, 320, 512]),
            ("m36", [3, 12, 18, 3], [96, 192, 384, 576]),
            ("b36", [3, 12, 18, 3], [128, 256, 512, 768]),
        )
    },

    "ffnet_1": dict(family="ffnet", depths=[2, 2, 8, 2], dims=[80, 160, 320, 640], channel_mixers=dict(type="convnext", kernel_size=3, ratio=3)),  # noqa: E501
    "ffnet_2": dict(family="ffnet", depths=[3, 3, 15, 3], dims=[88, 176, 352, 704]),
    "ffnet_3": dict(family="ffnet", depths=[4, 4, 22, 5], dims=[96, 192, 384, 768], layer_scale_init_value=1e-6),  # noqa: E501
    "ffnet_4": dict(family="ffnet", depths=[4, 4, 27, 3], dims=[128, 256, 512, 1024], layer_scale_init_value=1e-6),  # noqa: E501

    # The backbone of FFNet_seg, which emits the stages 1 to 3.
    "ffnet_seg": dict(
        family="ffnet", depths=[3, 4, 18, 5], dims=[96, 192, 384, 768],
        token_mixers=[dict(type="ffnified_attention", kernel_size=size, strips=True) for size in (3, 3, 9, 9)],  # noqa: E501
        channel_mixers=dict(type="convnext", kernel_size=3, ratio=4),
        layer_scale_init_value=1e-5,
        stem=dict(type="ConvStem", stride=4, convs=[(64, 2, True), (64, 1, True), (None, 1, False), (None, 2, False)]),  # noqa: E501
        downsampling=dict(type="BottleneckDownsampling", stride=2),
        out_norm_cfg=None),

    "convmixer_768_32": _convmixer(dim=768, depth=32, kernel_size=7, patch_size=7, act_cfg="ReLU"),
    "convmixer_1024_20": _convmixer(dim=1024, depth=20, kernel_size=9, patch_size=14),
    "convmixer_1536_20": _convmixer(dim=1536, depth=20, kernel_size=9, patch_size=7),

    "mlp_mixer_s32": _mlp_mixer(dim=512, depth=8, patch_size=32),
    "mlp_mixer_s16": _mlp_mixer(dim=512, depth=8, patch_size=16),
    "mlp_mixer_b32": _mlp_mixer(dim=768, depth=12, patch_size=32),
    "mlp_mixer_b16": _mlp_mixer(dim=768, depth=12, patch_size=16),
    "mlp_mixer_l32": _mlp_mixer(dim=1024, depth=24, patch_size=32),
    "mlp_mixer_l16": _mlp_mixer(dim=1024, depth=24, patch_size=16),
    "mlp_mixer_h14": _mlp_mixer(dim=1280, depth=32, patch_size=14),
}
# fmt: on


def list_archs(pattern: str = "*") -> list[str]:
    """Names of the known networks, in the order of the table.

    Args:
        pattern: Shell-style pattern, for instance ``'poolformer_s*'``.

    Example:
        >>> list_archs('poolformer_m*')
        ['poolformer_m36', 'poolformer_m48']
    """
    return [name for name in VARIANTS if fnmatchcase(name, pattern)]


def find_variant(arch: str, family: str | None = None) -> dict:
    """The row of the table for a name; see :func:`full_name`."""
    return VARIANTS[full_name(arch, family)]


def full_name(arch: str, family: str | None = None) -> str:
    """The name in the table of a name, full (``'poolformer_s12'``) or short within its family.

    Raises:
        ValueError: If there is no such row; lists the choices and the nearest names.
    """
    if not isinstance(arch, str):
        raise TypeError(f"arch must be a name or a dict, got {arch!r}")
    name = arch if arch in VARIANTS or family is None else f"{family}_{arch}"
    row = VARIANTS.get(name)
    if row is None or (family is not None and row["family"] != family):
        known = [n for n, v in VARIANTS.items() if family in (None, v["family"])]
        if family is not None:
            known = [n.removeprefix(f"{family}_") for n in known]
        near = difflib.get_close_matches(arch, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown arch {arch!r}: expected a dict or one of {known}.{hint}")
    return name
