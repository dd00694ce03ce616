"""What a token or channel mixer has to keep, checked for those from elsewhere."""

import torch
from torch import Tensor, nn

_OWN = ("mmmetaformer.mixers.", "mmmetaformer.channel_mixers.")


def check_shape_is_kept(mixer: nn.Module) -> nn.Module:
    """Have a mixer from elsewhere checked in each call: it must keep (B, C, H, W), since another
    shape might broadcast in the residual, and train on.

    Returns:
        The mixer, with a forward hook that raises a ValueError. The mixers in ``mixers/`` and
        ``channel_mixers/`` are tested and get no hook.
    """
    if not type(mixer).__module__.startswith(_OWN):
        mixer.register_forward_hook(_check_shape_hook)
    return mixer


def _check_shape_hook(mixer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    check_same_shape(args[0], output, type(mixer).__name__)


def check_same_shape(x: Tensor, y: Tensor, name: str) -> None:
    """Raise a ValueError unless a mixer of that name has kept the shape of its input."""
    if x.shape != y.shape:
        raise ValueError(
            f"mixer {name} mapped {list(x.shape)} to {list(y.shape)}: it must keep (B, C, H, W)"
        )


torch.fx.wrap("check_same_shape")  # one step, since it looks at shapes
