"""Normalisation of (B, C, H, W) maps."""

import torch
import torch.distributed as dist
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from ..registry import MODELS, as_cfg, build_part


@MODELS.register_module(name=["LN2d", "LayerNorm2d"])
class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each position.

    Args:
        num_channels: Number of channels C.
        eps: Added to the variance.
        bias: Whether there is a bias; the release of `MetaFormer Baselines for Vision
            <https://arxiv.org/abs/2210.13452>`_ has none.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    # A subclass, so that optimiser wrappers find it among the norms (no weight decay, say).
    def __init__(self, num_channels: int, eps: float = 1e-6, bias: bool = True) -> None:
        super().__init__(num_channels, eps, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._over_channels(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _over_channels(self, x: Tensor) -> Tensor:
        """The same without a permutation, behind which inductor (of torch 2.11) cannot tell how
        strides are ordered when the sizes of a compiled graph change."""
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(values, 1, correction=0, keepdim=True)
        values = (values - mean) * (variance + self.eps).rsqrt() * self.weight.view(-1, 1, 1)
        if self.bias is not None:
            values = values + self.bias.view(-1, 1, 1)
        return values.to(x.dtype)


@MODELS.register_module(name=["MLN", "ModifiedLayerNorm"])
class ModifiedLayerNorm(nn.GroupNorm):
    """Normalisation over channels and positions of each image, with a factor per channel.

    What PoolFormer calls modified layer normalisation; with a bias it is a GroupNorm of one
    group. Without one it is the norm of IdentityFormer, RandFormer and PoolFormerV2.

    Args:
        num_channels: Number of channels C.
        eps: Added to the variance.
        bias: Whether there is a bias.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, num_channels: int, eps: float = 1e-6, bias: bool = True) -> None:
        super().__init__(1, num_channels, eps)
        if not bias:
            self.bias = None


@MODELS.register_module()
class CPUSyncBatchNorm(_BatchNorm):
    """BatchNorm with the statistics of all processes' batches, for processes without a GPU.

    torch's own ``SyncBatchNorm`` refuses maps on the CPU. Parameters, buffers and results are the
    same; the processes may have batches of different sizes. Outside of a process group, in one of
    a single process and in eval mode it is BatchNorm.

    Shape:
        (B, C, ...) -> (B, C, ...)

    Raises:
        ValueError: If there is but one value per channel to take statistics of.
    """

    def forward(self, x: Tensor) -> Tensor:
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if alone or not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        others = [dim for dim in range(x.ndim) if dim != 1]

        def total(per_position: Tensor) -> Tensor:
            return all_reduce(per_position.sum(others, keepdim=True))

        count = all_reduce(values.new_tensor(x.numel() // x.shape[1]))
        if count <= 1:
            raise ValueError(f"one value per channel in all processes together: {tuple(x.shape)}")
        mean = total(values) / count
        centred = values - mean
        variance = total(centred.square()) / count
        if self.track_running_stats:
            self._note(mean.flatten(), variance.flatten() * (count / (count - 1)))
        normalised = centred * (variance + self.eps).rsqrt()
        if self.affine:
            shape = (1, -1, *[1] * (x.ndim - 2))
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(x.shape)}")

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Let the running statistics follow, as BatchNorm does."""
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # the average over all batches
            momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def build_norm(norm_cfg: dict | str | None, dim: int) -> nn.Module:
    """Build a norm over ``dim`` channels of a (B, C, H, W) map.

    Args:
        norm_cfg: ``dict(type='LN2d')`` or ``dict(type='MLN')`` of this package, or what
            OpenMMLab knows: ``dict(type='GN', num_groups=1)``, ``dict(type='BN')``,
            ``dict(type='SyncBN')``, ...; a name alone will do; None means no norm.
        dim: Number of channels C.

    Raises:
        ValueError: For an unknown name, or one that is no norm of maps.
    """
    if norm_cfg is None:
        return nn.Identity()
    cfg = as_cfg("norm_cfg", norm_cfg)
    # Ours first: mmpretrain has an LN2d of its own.
    cls = MODELS.module_dict.get(str(cfg["type"]).removeprefix("mmmetaformer."), cfg["type"])
    if cls in (LayerNorm2d, ModifiedLayerNorm):
        return build_part(MODELS, {**cfg, "type": cls}, num_channels=dim)
    if isinstance(cls, str):
        cls = ROOT_MODELS.get(cls)
    if cls is None:
        raise ValueError(
            f"unknown norm {cfg['type']!r}: expected LN2d, MLN, GN, BN, SyncBN, ... or any norm "
            "registered in mmengine's MODELS"
        )
    if cls is nn.LayerNorm:
        raise ValueError("norm 'LN' would normalise over the width of a map: use 'LN2d'")
    return build_norm_layer({**cfg, "type": cls}, dim)[1]
