"""MLP-Mixer: timm's and mmpretrain's copies of Google's weights."""

from .base import CLASSIFIER, HEAD, OTHER_HEAD, Layout, Rules, pointwise_weights

_ARCHS = ("mlp_mixer_*",)
_timm = Rules(
    ("stem.proj.{leaf}", "stem.conv.{leaf}"),
    "blocks.{block}.norm{n}.{leaf}",
    ("blocks.{block}.mlp_tokens.fc{n}.{leaf}", "blocks.{block}.token_mixer.fc{n}.{leaf}"),
    ("blocks.{block}.mlp_channels.fc{n}.{leaf}", "blocks.{block}.mlp.fc{n}.{leaf}"),
    *HEAD,
)
_layer = "layers.{block}"
_mmpretrain = Rules(
    ("patch_embed.projection.{leaf}", "stem.conv.{leaf}"),
    (f"{_layer}.ln{{n}}.{{leaf}}", "blocks.{block}.norm{n}.{leaf}"),
    (f"{_layer}.token_mix.layers.0.0.{{leaf}}", "blocks.{block}.token_mixer.fc1.{leaf}"),
    (f"{_layer}.token_mix.layers.1.{{leaf}}", "blocks.{block}.token_mixer.fc2.{leaf}"),
    (f"{_layer}.channel_mix.layers.0.0.{{leaf}}", "blocks.{block}.mlp.fc1.{leaf}"),
    (f"{_layer}.channel_mix.layers.1.{{leaf}}", "blocks.{block}.mlp.fc2.{leaf}"),
    ("ln1.{leaf}", f"{CLASSIFIER}.norm.{{leaf}}"),
    OTHER_HEAD,
)

TIMM_MLP_MIXER = Layout(
    "timm MLP-Mixer", ("timm",), _ARCHS, (r"stem\.proj\.weight", r"blocks\.0\.mlp_tokens\..+"),
    _timm, linear=pointwise_weights,
)  # fmt: skip
MMPRETRAIN_MLP_MIXER = Layout(
    "mmpretrain MLP-Mixer", ("mmpretrain",), _ARCHS,
    (r"patch_embed\.projection\.weight", r"layers\.0\.token_mix\..+"),
    _mmpretrain, linear=pointwise_weights, norm_in_mmpretrain="backbone.ln1",
)  # fmt: skip
