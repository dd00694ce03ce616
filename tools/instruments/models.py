"""Networks from what the command line names."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict

from mmmetaformer.backbones.base import Backbone
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.configs import is_config
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import check_arch, read_config, walk
from mmmetaformer.layers import switch_to_deploy
from mmmetaformer.registry import MODELS, find_part
from mmmetaformer.weights import WeightsError, is_pretrained, load_pretrained
from mmmetaformer.weights.loading import LoadReport

from .images import Preprocessing

_SPEC = re.compile(r"(?:(?P<label>[^=@/]+)=)?(?P<network>.+?\.py|[^@]+)(?:@(?P<checkpoint>.+))?")


@dataclass(frozen=True)
class ModelSpec:
    """What the command line says of a network.

    Attributes:
        label: What to call it.
        network: Name of an arch, or path or name of a config.
        checkpoint: Path or address of its weights.
    """

    label: str
    network: str
    checkpoint: str | None = None


def model_spec(text: str) -> ModelSpec:
    """A command-line argument ``[LABEL=]NETWORK[@CHECKPOINT]``.

    Example:
        >>> model_spec('trained=poolformer_s12@epoch_12.pth')
        ModelSpec(label='trained', network='poolformer_s12', checkpoint='epoch_12.pth')
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected [LABEL=]NETWORK[@CHECKPOINT], got {text!r}")
    label, network, checkpoint = match.group("label", "network", "checkpoint")
    if label is None:
        label = Path(network).stem if is_config(network) else network
        label += f"@{Path(checkpoint).stem}" if checkpoint else ""
    return ModelSpec(label, network, checkpoint)


@dataclass
class LoadedModel:
    """A network with its weights, ready to be measured.

    Attributes:
        spec: What the command line says of it.
        backbone: The network, in eval mode and without gradients of parameters.
        preprocessing: How it takes images.
        seed: Seed of the initialisation.
        weights: Where its weights are from; None for random ones.
        new: Parameters that the checkpoint lacks (output norms, a pyramid), which are random.
        fused: Whether its branches were folded, because those of the checkpoint are.
    """

    spec: ModelSpec
    backbone: Backbone
    preprocessing: Preprocessing
    seed: int
    weights: str | None = None
    new: list[str] = field(default_factory=list)
    fused: bool = False

    @property
    def label(self) -> str:
        """What to call it."""
        return self.spec.label

    def describe(self) -> dict[str, Any]:
        """What a JSON file says of it."""
        return dict(
            model=self.label,
            network=self.spec.network,
            weights=self.weights,
            seed=self.seed,
            randomly_initialised=self.new if self.weights else "all",
            fused=self.fused,
            preprocessing=asdict(self.preprocessing),
        )

    def __str__(self) -> str:
        if self.weights is None:
            return (
                f"{self.label}: RANDOM weights (seed {self.seed}), no checkpoint was given: "
                "this shows the architecture and not a trained network"
            )
        text = f"{self.label}: weights of {self.weights}{' (fused)' if self.fused else ''}"
        return text + (f"; RANDOM, not in the file: {', '.join(self.new)}" if self.new else "")


def load_model(
    spec: ModelSpec,
    seed: int = 0,
    preprocessing: Preprocessing | None = None,
    device: str | torch.device = "cpu",
) -> LoadedModel:
    """Build a network and load its weights.

    An arch without a checkpoint is random; a config without one is what it says, random or from
    its own ``init_cfg``. A checkpoint may be in any layout that the package knows, and inside of
    a detector or segmentor; one of a fused network makes the network a fused one.

    Args:
        spec: What the command line says.
        seed: Seed of the initialisation.
        preprocessing: How the network takes images; None means as its config says, or ImageNet's.
        device: Where it runs.

    Raises:
        UserError: If there is no such arch or config, or it has no backbone of this package.
        WeightsError: If the weights cannot be read or do not fit.
    """
    torch.manual_seed(seed)
    if is_config(spec.network):
        backbone, configured, pretrained = _from_config(spec.network)
    else:
        check_arch(spec.network)
        backbone, configured, pretrained = build_backbone(spec.network), Preprocessing(), None
    if spec.checkpoint is not None:
        pretrained = dict(checkpoint=spec.checkpoint)
    backbone.init_weights()
    model = LoadedModel(spec, backbone, preprocessing or configured, seed)
    if pretrained is not None:
        report, model.fused = _load(backbone, **pretrained)
        model.weights, model.new = report.source, report.conversion.new
    # Gradients are taken with respect to images only.
    backbone.requires_grad_(False).eval().to(device)
    return model


def _from_config(path: str) -> tuple[Backbone, Preprocessing, dict | None]:
    """The backbone of a config, how its model takes images, and the arguments of
    :func:`load_pretrained` for the weights that the config itself names."""
    model = read_config(path, needs=("model",)).model
    preprocessing = model.get("data_preprocessor") or {}
    parts = [part["backbone"] for part in walk(model) if part.get("backbone") is not None]
    if not parts:
        raise UserError(f"the model of config {path!r} has no backbone")
    cfg = ConfigDict(parts[0])
    kind = cfg.get("type")
    try:
        cls = find_part(MODELS, kind)
    except ValueError:
        cls = object
    if not issubclass(cls, Backbone):
        raise UserError(
            f"the backbone of config {path!r} is {kind!r}: expected one of mmmetaformer"
        )
    try:
        backbone = MODELS.build(cfg)
    except (TypeError, ValueError) as error:
        raise UserError(f"config {path!r}: {error}") from error
    # Weights are loaded by the caller and not by ``init_weights``, for the report.
    init_cfg = backbone.init_cfg or []
    init_cfgs = [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg)
    backbone.init_cfg = [part for part in init_cfgs if not is_pretrained(part)]
    pretrained = [
        {key: part[key] for key in ("checkpoint", "prefix", "new") if key in part}
        for part in init_cfgs
        if is_pretrained(part)
    ]
    return backbone, _preprocessing(preprocessing), pretrained[-1] if pretrained else None


def _preprocessing(cfg: ConfigDict) -> Preprocessing:
    if cfg.get("mean") is None or cfg.get("std") is None:
        return Preprocessing()
    # OpenMMLab reads images as BGR.
    swapped = cfg.get("bgr_to_rgb") or cfg.get("rgb_to_bgr")
    return Preprocessing(tuple(cfg["mean"]), tuple(cfg["std"]), "RGB" if swapped else "BGR")


def _load(backbone: Backbone, **pretrained: Any) -> tuple[LoadReport, bool]:
    """Load weights; whether the network was fused for them."""
    try:
        return load_pretrained(backbone, **pretrained), False
    except WeightsError as error:
        names = set(backbone.state_dict())
        if set(switch_to_deploy(backbone.eval()).state_dict()) == names:
            raise
        try:
            return load_pretrained(backbone, **pretrained), True
        except WeightsError:
            raise error from None
