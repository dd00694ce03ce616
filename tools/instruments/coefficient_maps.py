"""Where the most active keys of a mixer are active."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mmmetaformer.backbones.base import Backbone
from mmmetaformer.metamixer import MetaMixer

from .recording import BRANCHES, MixerSite, activity_maps, measure, mixer_sites

RANKINGS = ("mean", "max")


@dataclass(frozen=True)
class Key:
    """One key of a mixer and its activations by an image.

    Attributes:
        index: Its number among the K keys.
        name: What to call it; for attention its head and position.
        mean: Mean of its coefficients c over the positions.
        max: Largest coefficient.
        mean_activity: Mean of the activity ``|c - c0|``; see :func:`activity_maps`.
        max_activity: Largest activity.
        position: Row and column of the largest activity on the map.
    """

    index: int
    name: str
    mean: float
    max: float
    mean_activity: float
    max_activity: float
    position: tuple[int, int]


@dataclass(frozen=True)
class KeyActivations:
    """The activations of the most active keys of one mixer.

    Attributes:
        site: Where the mixer is.
        why_not: Why there are no keys; None where there are.
        num_keys: How many keys the mixer has.
        keys: The most active ones, the most active first.
        maps: Their activity, (k, H, W) on the CPU; None where there are no keys.
    """

    site: MixerSite
    why_not: str | None = None
    num_keys: int = 0
    keys: list[Key] = field(default_factory=list)
    maps: Tensor | None = None


def coefficient_maps(
    backbone: Backbone,
    images: Iterable[Tensor],
    blocks: Sequence[tuple[int, int]] | None = None,
    branches: Sequence[str] = BRANCHES,
    top: int = 4,
    by: str = "mean",
) -> list[list[KeyActivations]]:
    """The most active keys of mixers, in the sense of `MetaMixer
    <https://arxiv.org/abs/2406.02021>`_.

    The activity of a key at a position is ``|c - c0|``: how far its coefficient is from that of a
    key that does not match (:func:`~instruments.recording.activity_maps`; c0 is 0
    for most activations). Keys are ranked by its mean over the image, which favours keys that are
    active everywhere, or by its maximum, which favours those of one place.

    Args:
        backbone: The network; it is evaluated in eval mode and left as it was.
        images: Normalised images, (B, 3, H, W) or any iterable of (3, H, W).
        blocks: Stage and number of blocks, negative ones from the end of the stage; None means
            the last of each stage.
        branches: ``'token'``, ``'channel'`` or both.
        top: How many keys.
        by: ``'mean'`` or ``'max'``.

    Returns:
        For each image one entry for each mixer; a mixer that is no MetaMixer has one that says so.

    Raises:
        ValueError: If there is no such block or ranking, ``top`` is not positive, or a mixer would
            have more than ``2**27`` coefficients.
    """
    if by not in RANKINGS:
        raise ValueError(f"by must be one of {', '.join(RANKINGS)}, got {by!r}")
    if type(top) is not int or top < 1:
        raise ValueError(f"top must be a positive integer, got {top!r}")
    sites = choose_sites(backbone, blocks, branches)
    found = []
    for image in images:
        results = measure(backbone, image, sites, lambda mixer, x: _most_active(mixer, x, top, by))
        found.append(
            [
                KeyActivations(site, site.why_not, *(result or ()))
                for site, result in zip(sites, results, strict=True)
            ]
        )
    return found


def choose_sites(
    backbone: Backbone,
    blocks: Sequence[tuple[int, int]] | None = None,
    branches: Sequence[str] = BRANCHES,
) -> list[MixerSite]:
    """The mixers of some blocks; see :func:`coefficient_maps`."""
    sites = mixer_sites(backbone, branches)
    depths: dict[int, int] = {}
    for stage, number, _ in backbone.numbered_blocks():
        depths[stage] = number + 1
    chosen = set()
    for stage, number in [(stage, -1) for stage in depths] if blocks is None else blocks:
        depth = depths.get(stage, 0)
        if not -depth <= number < depth:
            known = ", ".join(f"{s}.0 to {s}.{n - 1}" for s, n in depths.items())
            raise ValueError(f"there is no block {stage}.{number}: the blocks are {known}")
        chosen.add((stage, number % depth))
    return [site for site in sites if (site.stage, site.block) in chosen]


def _most_active(mixer: MetaMixer, x: Tensor, top: int, by: str) -> tuple[int, list[Key], Tensor]:
    """Number of keys, the most active ones and their activity, for an input (1, C, H, W)."""
    (coefficients,), (activity,) = activity_maps(mixer, x)
    means, maxima = activity.mean((1, 2)), activity.amax((1, 2))
    order = (means if by == "mean" else maxima).topk(min(top, len(activity))).indices.tolist()
    width = activity.shape[2]
    keys = [
        Key(
            index=index,
            name=mixer.key_name(index, x),
            mean=coefficients[index].mean().item(),
            max=coefficients[index].max().item(),
            mean_activity=means[index].item(),
            max_activity=maxima[index].item(),
            position=divmod(int(activity[index].argmax()), width),
        )
        for index in order
    ]
    return len(activity), keys, activity[order].cpu()
