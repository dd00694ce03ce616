"""The families by name. What they are made of is data, in ``variants.py``."""

from collections.abc import Mapping
from typing import Any

from ..registry import MODELS
from .isotropic import IsotropicMetaFormer
from .metaformer import MetaFormer


@MODELS.register_module()
class PoolFormer(MetaFormer):
    """PoolFormer (`MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_).

    Args:
        arch: ``'s12'``, ``'s24'``, ``'s36'``, ``'m36'``, ``'m48'``, or a dict with ``depths`` and
            ``dims``.
        pool_size: Side of the pooling window.
        **kwargs: As for :class:`MetaFormer`.

    Example:
        >>> backbone = PoolFormer('s12', out_indices=(1, 2, 3))
        >>> backbone.out_channels, backbone.out_strides
        ((128, 320, 512), (8, 16, 32))
    """

    family = "poolformer"

    def __init__(
        self, arch: str | Mapping[str, Any] = "s12", *, pool_size: int | None = None, **kwargs: Any
    ) -> None:
        if pool_size is not None:
            if "token_mixers" in kwargs or (isinstance(arch, Mapping) and "token_mixers" in arch):
                raise TypeError("pool_size and token_mixers cannot both be given")
            kwargs["token_mixers"] = dict(type="pooling", pool_size=pool_size)
        super().__init__(arch, **kwargs)


@MODELS.register_module()
class PoolFormerV2(PoolFormer):
    """PoolFormerV2 (`MetaFormer Baselines for Vision <https://arxiv.org/abs/2210.13452>`_):
    ``'s12'``, ``'s24'``, ``'s36'``, ``'m36'``, ``'m48'``. Arguments as for :class:`PoolFormer`."""

    family = "poolformerv2"


@MODELS.register_module()
class IdentityFormer(MetaFormer):
    """IdentityFormer (`MetaFormer Baselines for Vision <https://arxiv.org/abs/2210.13452>`_), no
    token mixing: ``'s12'``, ``'s24'``, ``'s36'``, ``'m36'``, ``'m48'``. Arguments as for
    :class:`MetaFormer`."""

    family = "identityformer"


@MODELS.register_module()
class RandFormer(MetaFormer):
    """RandFormer (`MetaFormer Baselines for Vision <https://arxiv.org/abs/2210.13452>`_), frozen
    random matrices in stages 2 and 3: ``'s12'``, ``'s24'``, ``'s36'``, ``'m36'``, ``'m48'``.
    Arguments as for :class:`MetaFormer`; how the matrices serve other sizes than 224x224 says
    ``token_mixers=['identity', 'identity', dict(type='random_matrix', size_policy=...), ...]``
    (:class:`~mmmetaformer.mixers.GridMixer`)."""

    family = "randformer"


@MODELS.register_module()
class ConvFormer(MetaFormer):
    """ConvFormer (`MetaFormer Baselines for Vision <https://arxiv.org/abs/2210.13452>`_),
    separable convolutions: ``'s18'``, ``'s36'``, ``'m36'``, ``'b36'``. Arguments as for
    :class:`MetaFormer`."""

    family = "convformer"


@MODELS.register_module()
class CAFormer(MetaFormer):
    """CAFormer (`MetaFormer Baselines for Vision <https://arxiv.org/abs/2210.13452>`_), separable
    convolutions in stages 0 and 1 and attention in stages 2 and 3: ``'s18'``, ``'s36'``,
    ``'m36'``, ``'b36'``. Arguments as for :class:`MetaFormer`; for large images ``token_mixers``
    takes ``'window_attention'`` or ``'sr_attention'`` with the same weights."""

    family = "caformer"


@MODELS.register_module()
class FFNet(MetaFormer):
    """FFNet (`MetaMixer <https://arxiv.org/abs/2406.02021>`_), FFNified attention and ConvNeXt
    blocks: ``'1'``, ``'2'``, ``'3'``, ``'4'``, and ``'seg'``, which FFNet_seg has below
    :class:`~mmmetaformer.heads.FFNetHead` with ``out_indices=(1, 2, 3)``. Arguments as for
    :class:`MetaFormer`; BatchNorm or SyncBN is chosen with ``inner_norm_cfg`` (``norm_cfg`` would
    add norms to the blocks), and ``switch_to_deploy()`` fuses branches and BatchNorms for
    prediction."""

    family = "ffnet"


@MODELS.register_module()
class ConvMixer(IsotropicMetaFormer):
    """ConvMixer (`Patches Are All You Need? <https://arxiv.org/abs/2201.09792>`_): ``'768_32'``,
    ``'1024_20'``, ``'1536_20'``. The released 768/32 has ReLU, the others GELU; ``act_cfg`` changes
    it in the patch embedding and in both mixers of a block. Arguments as for
    :class:`IsotropicMetaFormer`."""

    family = "convmixer"


@MODELS.register_module()
class MlpMixer(IsotropicMetaFormer):
    """MLP-Mixer (`MLP-Mixer: An all-MLP Architecture for Vision
    <https://arxiv.org/abs/2105.01601>`_): ``'s32'``, ``'s16'``, ``'b32'``, ``'b16'``, ``'l32'``,
    ``'l16'``, ``'h14'``. Arguments as for :class:`IsotropicMetaFormer`; how the token MLPs serve
    other sizes than 224x224 says ``token_mixers=dict(type='token_mlp', size_policy=...)``
    (:class:`~mmmetaformer.mixers.GridMixer`). The grid is that of 224x224 images in published
    patches; H/14, whose patches become 16 pixels under a pyramid, has it at 256x256 there."""

    family = "mlp_mixer"
