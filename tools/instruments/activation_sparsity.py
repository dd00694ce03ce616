"""How many coefficients are switched off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmmetaformer.backbones.base import Backbone
from mmmetaformer.metamixer import MetaMixer

from .recording import MixerSite, activity_maps, is_softmax, measure, mixer_sites

THRESHOLD = 0.01


@dataclass(frozen=True)
class LayerSparsity:
    """Sparsity of one mixer.

    Attributes:
        site: Where the mixer is.
        why_not: Why there is nothing to measure; None where there is.
        not_positive: Share of scores that are not positive, which is what activations such as ReLU
            switch off; None for a softmax, where the sign of a score says nothing.
        inactive: Share of coefficients whose activity is at most a threshold times the
            root-mean-square activity.
    """

    site: MixerSite
    why_not: str | None = None
    not_positive: float | None = None
    inactive: float | None = None


def activation_sparsity(
    backbone: Backbone,
    images: Iterable[Tensor],
    branches: Sequence[str] = ("channel",),
    threshold: float = THRESHOLD,
) -> list[LayerSparsity]:
    """Sparsity of the mixers by layer, in two measures, averaged over the images.

    - ``not_positive``: the share of scores (what is activated) that are zero or less. It asks what
      the keys match, and does not depend on the activation: for ReLU it is the share of
      coefficients that are exactly zero.
    - ``inactive``: the share of coefficients c with ``|c - c0| <= threshold * rms(|c - c0|)``, the
      root-mean-square taken over all keys and positions of the layer and the image, and c0 the
      coefficient of a score of zero (:func:`~instruments.recording.activity_maps`).
      It asks what reaches the values, and does not depend on the scale of the layer. With c
      itself in place of its distance from c0, the bias of a StarReLU would make each coefficient
      active, those that are switched off as well.

    Args:
        backbone: The network; it is evaluated in eval mode and left as it was.
        images: Normalised images, (B, 3, H, W) or any iterable of (3, H, W).
        branches: ``'token'``, ``'channel'`` or both.
        threshold: See above, at least 0.

    Returns:
        One entry for each mixer, in the order of the forward pass.

    Raises:
        ValueError: If there is no image, the threshold is negative, or a mixer would have more
            than ``2**27`` coefficients.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold!r}")
    sites = mixer_sites(backbone, branches)
    measured = [
        measure(backbone, image, sites, lambda mixer, x: _shares(mixer, x, threshold))
        for image in images
    ]
    if not measured:
        raise ValueError("sparsity is an average over images, got none")
    layers = []
    for site, *shares in zip(sites, *measured, strict=True):
        if site.why_not is not None:
            layers.append(LayerSparsity(site, site.why_not))
            continue
        not_positive, inactive = zip(*shares, strict=True)
        layers.append(LayerSparsity(site, None, _mean(not_positive), _mean(inactive)))
    return layers


def _shares(mixer: MetaMixer, x: Tensor, threshold: float) -> tuple[float | None, float]:
    scores = mixer.as_maps(mixer.scores(x), x)
    there = scores.isfinite()  # attention masks the padding of windows with minus infinity
    _, activity = activity_maps(mixer, x)
    activity = activity[there]
    rms = activity.square().mean().sqrt()
    inactive = (activity <= threshold * rms).double().mean().item()
    if is_softmax(mixer):
        return None, inactive
    return (scores[there] <= 0).double().mean().item(), inactive


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(values) / len(values)
