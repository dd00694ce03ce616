"""The work that is measured: an implementation on images of one size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from mmmetaformer.backbones.base import Backbone
from mmmetaformer.engine.compilation import compile_backbones
from mmmetaformer.engine.errors import UserError
from mmmetaformer.weights import convert_state_dict
from tool_support.whole_model import build_whole_model, generated_batch

from .implementations import Implementation
from .networks import OURS, build_network, build_ours, fill, fold, require_ours, require_own_path

WORKS = ("inference", "training")
BACKEND = "inductor"


class Candidate(ABC):
    """An implementation with weights, images and an optimiser, ready to run.

    Attributes:
        implementation: What it is.
        module: The network or whole model.
        device: Where it runs.
        optimiser: What a training step ends with; None for none.
    """

    def __init__(
        self, implementation: Implementation, module: nn.Module, device: torch.device
    ) -> None:
        self.implementation = implementation
        self.module = module.to(device)
        self.device = device
        self.optimiser: torch.optim.Optimizer | None = None
        if implementation.channels_last:
            self.module.to(memory_format=torch.channels_last)

    def work(self, name: str) -> Callable[[], object]:
        """One of ``WORKS``, with the module in the mode for it."""
        self.module.train(name == "training")
        return self.train if name == "training" else self.predict

    def _autocast(self) -> torch.autocast:
        dtype = self.implementation.torch_dtype
        # float32 means none; older versions of torch refuse it as a dtype of autocast.
        if dtype == torch.float32:
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, dtype)

    def predict(self) -> object:
        """Inference, without gradients."""
        with torch.no_grad(), self._autocast():
            return self._predict()

    def forward(self) -> list[Tensor]:
        """The forward pass of a training step: what the backward pass starts from."""
        with self._autocast():
            return self._forward()

    def train(self) -> None:
        """A training step: forward pass, backward pass, and the optimiser's if there is one."""
        self.backward(self.forward())
        if self.optimiser is not None:
            self.optimiser.step()
        self.module.zero_grad(set_to_none=True)

    def features(self) -> list[Tensor]:
        """The maps (B, C, H, W) of the backbone as inference computes them."""
        with torch.no_grad(), self._autocast():
            return list(self._backbone()(*self.inputs()))

    def features_in_float32(self) -> list[Tensor]:
        """The same without autocast and ``torch.compile``."""
        with torch.no_grad():
            return list(self._backbone().forward(*self.inputs()))

    @abstractmethod
    def inputs(self) -> list[Tensor]:
        """The images (B, 3, H, W) as they enter the network."""

    @abstractmethod
    def backward(self, outputs: Sequence[Tensor]) -> None:
        """The backward pass."""

    @abstractmethod
    def _backbone(self) -> nn.Module: ...

    @abstractmethod
    def _predict(self) -> object: ...

    @abstractmethod
    def _forward(self) -> list[Tensor]: ...


class BackboneCandidate(Candidate):
    """A backbone alone. A training step starts its backward pass from fixed random gradients of
    the four maps.

    Args:
        implementation: What it is.
        module: Image to four maps.
        images: Images (B, 3, H, W).
        optimiser_step: Whether a training step ends with one of AdamW.
    """

    def __init__(
        self,
        implementation: Implementation,
        module: nn.Module,
        images: Tensor,
        optimiser_step: bool,
    ) -> None:
        super().__init__(implementation, module, images.device)
        layout = torch.channels_last if implementation.channels_last else torch.contiguous_format
        self._images = images.contiguous(memory_format=layout)
        self._gradients: list[Tensor] = []
        if optimiser_step:
            self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=1e-6)
        if implementation.compiled:
            # Each size is a case of its own, with graphs of its own.
            self.module.compile(backend=BACKEND, dynamic=False)

    def inputs(self) -> list[Tensor]:
        return [self._images]

    def backward(self, outputs: Sequence[Tensor]) -> None:
        if not self._gradients:
            self._gradients = [_noise_like(output, seed) for seed, output in enumerate(outputs)]
        torch.autograd.backward(outputs, self._gradients)

    def gradients(self, names: Backbone) -> dict[str, Tensor]:
        """The gradients of one training step by the parameters' names in our own network."""
        self.backward(self.forward())
        found = {
            name: parameter.grad
            for name, parameter in self.module.named_parameters()
            if parameter.grad is not None
        }
        self.module.zero_grad(set_to_none=True)
        if self.implementation.name in OURS:
            return found
        # Buffers have no gradients, but belong to what a layout is recognised by.
        return convert_state_dict({**dict(self.module.named_buffers()), **found}, names)

    def _backbone(self) -> nn.Module:
        return self.module

    def _predict(self) -> object:
        return self.module(self._images)

    def _forward(self) -> list[Tensor]:
        return list(self.module(self._images))


class WholeCandidate(Candidate):
    """A whole detector, segmentor or classifier with the optimiser of its config, from images as a
    data loader gives them to predictions, or to weights that a step has changed.

    Args:
        implementation: What it is.
        module: The detector, segmentor or classifier.
        device: Where it runs.
        cfg: Its whole config.
        batch: Images and labels, see :func:`~tool_support.whole_model.generated_batch`.
    """

    def __init__(
        self,
        implementation: Implementation,
        module: nn.Module,
        device: torch.device,
        cfg: Config,
        batch: dict,
    ) -> None:
        super().__init__(implementation, module, device)
        self._batch = batch
        self.optimiser = build_optim_wrapper(self.module, cfg.optim_wrapper).optimizer
        if implementation.compiled:
            compile_backbones(self.module, backend=BACKEND, dynamic=False)

    def inputs(self) -> list[Tensor]:
        with torch.no_grad():
            return [self._preprocess(training=False)["inputs"]]

    def backward(self, outputs: Sequence[Tensor]) -> None:
        torch.autograd.backward(outputs)

    def _preprocess(self, training: bool) -> dict:
        batch = self.module.data_preprocessor(self._batch, training)
        if self.implementation.channels_last:
            batch["inputs"] = batch["inputs"].contiguous(memory_format=torch.channels_last)
        return batch

    def _backbone(self) -> nn.Module:
        return self.module.backbone

    def _predict(self) -> object:
        return self.module(**self._preprocess(training=False), mode="predict")

    def _forward(self) -> list[Tensor]:
        losses = self.module(**self._preprocess(training=True), mode="loss")
        return [self.module.parse_losses(losses)[0]]


def _noise_like(output: Tensor, seed: int) -> Tensor:
    """The same for every implementation but for dtype and layout in memory."""
    noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(output, requires_grad=False).copy_(noise)


@dataclass
class BenchmarkModel(ABC):
    """A network or whole model at one size, which each implementation becomes a candidate of.

    Attributes:
        name: What to call it.
        batch_size: Images.
        size: Their height and width, in pixels.
        device: Where it runs.
    """

    name: str
    batch_size: int
    size: tuple[int, int]
    device: torch.device

    @abstractmethod
    def build(self, implementation: Implementation) -> Candidate:
        """A candidate with the same weights and images as all others.

        Raises:
            UserError: If there is no such implementation of this network.
        """


@dataclass
class BackboneModel(BenchmarkModel):
    """A backbone, its name one of ``list_archs()``, without norms on its maps.

    Attributes:
        optimiser_step: Whether a training step ends with one of AdamW.
    """

    optimiser_step: bool

    def __post_init__(self) -> None:
        self.plain = build_ours(self.name, "plain")
        fill(self.plain)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, 3, *self.size, generator=generator)
        self._images = images.to(self.device)

    def build(self, implementation: Implementation) -> BackboneCandidate:
        module = build_network(self.name, implementation.name, self.plain.state_dict())
        return BackboneCandidate(implementation, module, self._images, self.optimiser_step)


@dataclass
class WholeModel(BenchmarkModel):
    """The model of a config, whose backbone is what is implemented.

    Attributes:
        cfg: The whole config.
    """

    cfg: Config
    _weights: Mapping[str, Tensor] | None = None

    def build(self, implementation: Implementation) -> WholeCandidate:
        name = implementation.name
        require_ours(name, self.name)
        cfg = deepcopy(self.cfg)
        cfg.model.backbone.fused = OURS[name]
        module = build_whole_model(cfg, self.size)
        if not isinstance(module.backbone, Backbone):
            raise UserError(
                f"the backbone of {self.name} is {type(module.backbone).__name__}: expected one of "
                "mmmetaformer"
            )
        require_own_path(module.backbone, name)
        if self._weights is None:
            module.init_weights()
            fill(module.backbone)
            self._weights = deepcopy(module.state_dict())  # steps change the module's own
        module.load_state_dict(self._weights)
        module = fold(module.eval(), name)
        torch.manual_seed(0)
        batch = generated_batch(cfg, self.batch_size, self.size)
        return WholeCandidate(implementation, module, self.device, cfg, batch)


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 without the shorter mantissa that GPUs may take for it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
