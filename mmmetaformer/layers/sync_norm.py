"""BatchNorm over all processes, without a GPU."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from ..registry import MODELS


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
        count, running_mean, running_var = (
            self.num_batches_tracked,
            self.running_mean,
            self.running_var,
        )
        assert count is not None and running_mean is not None and running_var is not None
        count.add_(1)
        momentum = self.momentum
        if momentum is None:  # the average over all batches
            momentum = 1.0 / float(count)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(variance.to(running_var.dtype), momentum)
