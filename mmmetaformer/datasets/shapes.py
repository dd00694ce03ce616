"""A small synthetic data set in the formats of COCO instances and ADE20K scene parsing.

:func:`generate_shapes` draws simple shapes over textured ground and writes the same images twice:
once as COCO detection/instance segmentation, once as ADEChallengeData2016 semantic segmentation.
It needs no download, takes seconds, and exercises what real annotation files contain: polygons in
several parts, crowd regions as run lengths, category ids with gaps, images without any object.

Example:
    >>> from mmmetaformer.datasets.shapes import generate_shapes
    >>> summary = generate_shapes('data/shapes', num_train=16, num_val=4)  # doctest: +SKIP
    >>> summary['images']  # doctest: +SKIP
    {'train': 16, 'val': 4}
"""

from __future__ import annotations

import json
import operator
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

__all__ = [
    "CATEGORY_IDS",
    "FORMAT_VERSION",
    "PALETTE",
    "SEMANTIC_CLASSES",
    "THING_CLASSES",
    "THING_PALETTE",
    "generate_shapes",
]

#: Classes of the instances, in the order of the COCO categories.
THING_CLASSES = ("circle", "rectangle", "triangle", "star", "cross")
#: Classes of the semantic maps; class ``i`` is stored as the pixel value ``i + 1``, 0 is "other".
SEMANTIC_CLASSES = (*THING_CLASSES, "plain", "striped")
#: Category id of each thing class. With gaps and not from 0, as in COCO, so that code which takes
#: an id for an index fails here and not on the real data.
CATEGORY_IDS = (1, 2, 4, 5, 8)
#: RGB colour of each semantic class, for drawing results (not the colours of the images).
PALETTE = (
    (220, 20, 60),
    (0, 110, 230),
    (40, 170, 60),
    (250, 190, 20),
    (150, 60, 200),
    (170, 170, 150),
    (110, 130, 150),
)
#: RGB colour of each thing class; the same colours as in ``PALETTE``.
THING_PALETTE = PALETTE[: len(THING_CLASSES)]
#: Part of ``shapes.json``; raise it whenever the same arguments give other files than before.
FORMAT_VERSION = 1

_MARKER = "shapes.json"
_SPLITS = ("train", "val")
_MIN_SIDE, _MAX_SIDE = 64, 2048
_PLAIN = len(THING_CLASSES) + 1
_STRIPED = len(THING_CLASSES) + 2
_JPEG_QUALITY = 95
# Every 20th image has no object and every 8th a crowd: fixed positions rather than chance, so that
# even a set of eight images has one of each. The two series never meet.
_EMPTY_EVERY, _EMPTY_AT = 20, 5
_CROWD_EVERY, _CROWD_AT = 8, 3
# A shape needs enough of itself in view for its class to be a fair question.
_MIN_VISIBLE = 0.45
_MIN_VISIBLE_CROWD = 0.6
_MIN_VISIBLE_PIXELS = 30
_MIN_INSIDE = 0.55


@dataclass
class _Instance:
    """One drawn object: its class (index), its pixels if nothing covered or cut it, crowd flag."""

    label: int
    full_area: int
    iscrowd: bool = False


@dataclass
class _Scene:
    """An image being drawn. ``owner`` holds the 1-based instance that each pixel shows, 0: none."""

    image: np.ndarray
    semantic: np.ndarray
    owner: np.ndarray
    instances: list[_Instance] = field(default_factory=list)


# ------------------------------------------------------------------------------- textures
def _unit(rng: np.random.Generator) -> tuple[float, float]:
    """A random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    return float(np.cos(angle)), float(np.sin(angle))


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Distance in pixels along a random direction. Shape: (height, width)."""
    dx, dy = _unit(rng)
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    return xs * dx + ys * dy


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Noise of about unit variance that varies over ``cell`` pixels. Shape: (height, width)."""
    grid = rng.normal(size=(int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


# Grounds are muted and shapes vivid, and each class has a range of hues of its own beside its form,
# as many classes of real objects do; stripes are darker than plain ground. Form alone takes a
# network of this size, from scratch, longer to learn than the few minutes of a quickstart.
def _muted(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A colour close to grey. Shape: (3,)."""
    return (rng.uniform(low, high) + rng.uniform(-14, 14, size=3)).astype(np.float32)


def _vivid(rng: np.random.Generator, count: int, label: int) -> np.ndarray:
    """Saturated colours from a class's range of hues. Shape: (count, 3)."""
    hue = (label + rng.uniform(-0.45, 0.45, size=(count, 1))) * (6 / len(THING_CLASSES))
    value, saturation = rng.uniform(150, 245, (count, 1)), rng.uniform(0.55, 1.0, (count, 1))
    # Of each channel from the hue where it is least.
    distance = np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3)
    return (value * (1 - saturation * np.clip(2 - distance, 0, 1))).astype(np.float32)


def _fill(rng: np.random.Generator, height: int, width: int, colour: np.ndarray) -> np.ndarray:
    """A patch of a random texture around ``colour``. Shape: (height, width, 3)."""
    patch = np.broadcast_to(colour, (height, width, 3)).astype(np.float32)
    kind = rng.integers(5)
    amplitude = rng.uniform(10, 26)
    if kind == 1:
        ramp = _ramp(rng, height, width)
        span = max(float(np.ptp(ramp)), 1.0)
        shade = (ramp - ramp.min()) / span * 2 - 1
    elif kind == 2:
        period = rng.uniform(4, 10)
        shade = np.sign(np.sin(_ramp(rng, height, width) * (2 * np.pi / period)))
    elif kind == 3:
        period = rng.uniform(4, 9)
        first, second = _ramp(rng, height, width), _ramp(rng, height, width)
        shade = np.sin(first * (2 * np.pi / period)) * np.sin(second * (2 * np.pi / period))
        shade = np.where(shade > 0.35, 1.0, -0.3)
    elif kind == 4:
        shade = np.clip(_smooth_noise(rng, height, width, 2.5), -2, 2) * 0.6
    else:
        return patch
    return patch + np.float32(amplitude) * shade[..., None].astype(np.float32)


def _plain_ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A soft gradient with slow blotches: the 'plain' class."""
    colour = _muted(rng, 115, 210)
    ramp = _ramp(rng, height, width)
    shade = (ramp - ramp.mean()) / max(float(np.ptp(ramp)), 1.0) * rng.uniform(10, 60)
    shade = shade + _smooth_noise(rng, height, width, min(height, width) / 5) * rng.uniform(2, 8)
    return colour + shade[..., None].astype(np.float32)


def _striped_ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Slightly wavy stripes of two related colours: the 'striped' class."""
    side = min(height, width)
    colour = _muted(rng, 45, 115)
    other = colour + (rng.choice([-1, 1]) * rng.uniform(36, 60) + rng.uniform(-6, 6, size=3))
    period = rng.uniform(0.06, 0.12) * side
    ramp = _ramp(rng, height, width)
    ramp = ramp + _smooth_noise(rng, height, width, side / 3) * (0.15 * period)
    weight = np.clip(np.sin(ramp * (2 * np.pi / period)) * 2, -1, 1) * 0.5 + 0.5
    return colour + weight[..., None].astype(np.float32) * (other - colour).astype(np.float32)


def _other_ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coarse speckle: ground that belongs to no class."""
    colour = _muted(rng, 50, 205)
    shade = _smooth_noise(rng, height, width, 3.5) * rng.uniform(16, 26)
    return colour + shade[..., None].astype(np.float32)


def _background(rng: np.random.Generator, height: int, width: int) -> _Scene:
    """The ground: plain, striped or both, and in some images a patch or a border of neither."""
    side = min(height, width)
    layout = rng.uniform()
    if layout < 0.25:
        striped = np.zeros((height, width), bool)
    elif layout < 0.5:
        striped = np.ones((height, width), bool)
    else:
        ramp = _ramp(rng, height, width)
        edge = np.quantile(ramp, rng.uniform(0.3, 0.7))
        striped = ramp + _smooth_noise(rng, height, width, side / 3) * (0.05 * side) > edge
    plain_ground = _plain_ground(rng, height, width)
    striped_ground = _striped_ground(rng, height, width)
    image = np.where(striped[..., None], striped_ground, plain_ground)
    semantic = np.where(striped, _STRIPED, _PLAIN).astype(np.uint8)

    if rng.uniform() < 0.3:
        ramp = _ramp(rng, height, width)
        edge = np.quantile(ramp, rng.uniform(0.75, 0.92))
        other = ramp + _smooth_noise(rng, height, width, side / 4) * (0.04 * side) > edge
        image = np.where(other[..., None], _other_ground(rng, height, width), image)
        semantic[other] = 0
    if rng.uniform() < 0.2:
        thick = int(rng.integers(2, 5))
        frame = np.ones((height, width), bool)
        frame[thick:-thick, thick:-thick] = False
        image[frame] = rng.uniform(10, 245)
        semantic[frame] = 0
    return _Scene(image.astype(np.float32), semantic, np.zeros((height, width), np.int32))


# --------------------------------------------------------------------------------- shapes
def _random_label(rng: np.random.Generator) -> int:
    """The index of a thing class, all alike in frequency."""
    return int(rng.integers(len(THING_CLASSES)))


def _outline(rng: np.random.Generator, name: str) -> np.ndarray | None:
    """Vertices of a shape in the unit circle, (n, 2); None for the circle itself."""
    if name == "circle":
        return None
    if name == "rectangle":
        ratio = rng.uniform(0.45, 1.0)
        points = np.array([[1, ratio], [-1, ratio], [-1, -ratio], [1, -ratio]])
        points = points / np.hypot(1, ratio)
    elif name == "triangle":
        # Within 15 degrees of equilateral, so that no sliver appears.
        angles = np.deg2rad(np.array([90.0, 210.0, 330.0]) + rng.uniform(-15, 15, size=3))
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif name == "star":
        angles = np.arange(10) * (np.pi / 5)
        radii = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.4, 0.5))
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    elif name == "cross":
        t = rng.uniform(0.26, 0.38)
        quarter = np.array([[1, -t], [1, t], [t, t]])
        turns = [quarter @ np.linalg.matrix_power([[0, 1], [-1, 0]], k) for k in range(4)]
        points = np.concatenate(turns) / np.hypot(1, t)
    else:
        raise ValueError(f"unknown shape {name!r}; expected one of {THING_CLASSES}")
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _rasterise(
    rng: np.random.Generator, label: int, diameter: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one shape at a random angle and sub-pixel position in a patch that it fits into.

    Returns:
        The mask (the shape covers the pixel's centre) and the coverage in [0, 1] for smooth edges.
    """
    radius = diameter / 2
    points = _outline(rng, THING_CLASSES[label])
    size = int(np.ceil(diameter)) + 3
    centre = size / 2 + rng.uniform(-0.5, 0.5, size=2)
    # Three samples per pixel and direction; the middle one is the centre of the pixel.
    ticks = (np.arange(size * 3) + 0.5) / 3
    xs, ys = ticks[None, :] - centre[0], ticks[:, None] - centre[1]
    if points is None:
        inside = xs**2 + ys**2 <= radius**2
    else:
        points = points * radius
        inside = np.zeros((size * 3, size * 3), bool)
        for x0, y0, x1, y1 in np.hstack([points, np.roll(points, -1, axis=0)]):
            if y0 == y1:
                continue
            crosses = (ys < y0) != (ys < y1)
            inside ^= crosses & (xs < (ys - y0) * ((x1 - x0) / (y1 - y0)) + x0)
    coverage = inside.reshape(size, 3, size, 3).mean(axis=(1, 3), dtype=np.float32)
    return inside[1::3, 1::3], coverage


def _clip(
    patch_size: int, x: int, y: int, height: int, width: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Slices of the image and of a square patch with its corner at (x, y); None if outside."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + patch_size, width), min(y + patch_size, height)
    if x0 >= x1 or y0 >= y1:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))


def _contrasting_colour(
    rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, label: int
) -> np.ndarray:
    """A vivid colour of the class that stands out from what surrounds ``mask``."""
    ring = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & ~mask
    around = image[ring]
    candidates = _vivid(rng, 24, label)
    if len(around) == 0:
        return candidates[0]
    around = around[:: max(1, len(around) // 150)]
    distance = np.linalg.norm(candidates[:, None] - around[None], axis=-1)
    contrast = np.quantile(distance, 0.1, axis=1)
    good = np.flatnonzero(contrast >= 60)
    return candidates[good[0] if len(good) else int(contrast.argmax())]


def _paint(
    rng: np.random.Generator,
    scene: _Scene,
    label: int,
    mask: np.ndarray,
    coverage: np.ndarray,
    corner: tuple[int, int],
) -> np.ndarray:
    """Draw a patch into the image and the semantic map; returns its mask in the whole image."""
    clipped = _clip(len(mask), *corner, *scene.semantic.shape)
    full = np.zeros(scene.semantic.shape, bool)
    # The draws below happen even for a patch outside: the stream must not depend on the clipping.
    if clipped is not None:
        full[clipped[0]] = mask[clipped[1]]
    colour = _contrasting_colour(rng, scene.image, full, label)
    texture = _fill(rng, len(mask), len(mask), colour)
    if clipped is not None:
        alpha = coverage[clipped[1]][..., None]
        region = scene.image[clipped[0]]
        scene.image[clipped[0]] = region + alpha * (texture[clipped[1]] - region)
        scene.semantic[full] = label + 1
    return full


def _leaves_visible(scene: _Scene, covered: np.ndarray) -> bool:
    """Whether every earlier instance keeps enough visible pixels once ``covered`` is drawn on."""
    count = len(scene.instances) + 1
    before = np.bincount(scene.owner.ravel(), minlength=count)
    lost = np.bincount(scene.owner[covered], minlength=count)
    for index, instance in enumerate(scene.instances, start=1):
        share = _MIN_VISIBLE_CROWD if instance.iscrowd else _MIN_VISIBLE
        needed = max(share * instance.full_area, _MIN_VISIBLE_PIXELS)
        # An instance that nothing touches is left as it was placed.
        if lost[index] and before[index] - lost[index] < needed:
            return False
    return True


def _add_shape(
    rng: np.random.Generator, scene: _Scene, label: int, diameter: float, middle: bool = False
) -> bool:
    """Find a place for one shape and draw it there; False when the image has no fair place.

    ``middle`` keeps a big shape from losing most of itself at the border.
    """
    height, width = scene.semantic.shape
    mask, coverage = _rasterise(rng, label, diameter)
    area = int(mask.sum())
    size = len(mask)
    single = [i for i, instance in enumerate(scene.instances, 1) if not instance.iscrowd]
    margin = 0.38 if middle else 0.02
    for _ in range(30):
        cx, cy = rng.uniform(margin, 1 - margin, size=2) * (width, height)
        if single and rng.uniform() < 0.3:
            # Left to chance, shapes seldom meet: put some of them next to an earlier one.
            ys, xs = np.nonzero(scene.owner == int(rng.choice(single)))
            dx, dy = _unit(rng)
            reach = (diameter + np.sqrt(len(xs))) / 2 * rng.uniform(0.5, 0.9)
            cx, cy = float(xs.mean()) + dx * reach, float(ys.mean()) + dy * reach
        corner = (round(cx - size / 2), round(cy - size / 2))
        clipped = _clip(size, *corner, height, width)
        if clipped is None:
            continue
        inside = int(mask[clipped[1]].sum())
        if inside < max(_MIN_INSIDE * area, _MIN_VISIBLE_PIXELS):
            continue
        covered = np.zeros((height, width), bool)
        covered[clipped[0]] = mask[clipped[1]]
        if not _leaves_visible(scene, covered):
            continue
        _paint(rng, scene, label, mask, coverage, corner)
        scene.instances.append(_Instance(label, area))
        scene.owner[covered] = len(scene.instances)
        return True
    return False


def _add_crowd(rng: np.random.Generator, scene: _Scene, label: int) -> None:
    """Draw a cluster of tiny shapes of one class: a single crowd region, gaps included."""
    height, width = scene.semantic.shape
    side = min(height, width)
    cx, cy = rng.uniform(0.25, 0.75) * width, rng.uniform(0.25, 0.75) * height
    reach = rng.uniform(0.19, 0.27) * side
    tiny = max(7.0, rng.uniform(0.065, 0.095) * side)
    wanted = int(rng.integers(9, 17))
    union = np.zeros((height, width), bool)
    centres: list[tuple[float, float]] = []
    for _ in range(400):
        if len(centres) == wanted:
            break
        dx, dy = _unit(rng)
        distance = reach * np.sqrt(rng.uniform())
        x, y = cx + dx * distance, cy + dy * distance
        if not (tiny / 2 <= x <= width - tiny / 2 and tiny / 2 <= y <= height - tiny / 2):
            continue
        if any(np.hypot(x - a, y - b) < tiny for a, b in centres):
            continue
        centres.append((x, y))
        mask, coverage = _rasterise(rng, label, tiny)
        corner = (round(x - len(mask) / 2), round(y - len(mask) / 2))
        union |= _paint(rng, scene, label, mask, coverage, corner)
    kernel_size = 2 * round(tiny * 0.6) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (kernel_size, kernel_size))
    region = cv2.morphologyEx(union.astype(np.uint8), cv2.MORPH_CLOSE, kernel).astype(bool) | union
    # The ground between the shapes is neither the class nor clean ground: "other".
    scene.semantic[region & ~union] = 0
    scene.instances.append(_Instance(label, int(region.sum()), iscrowd=True))
    scene.owner[region] = len(scene.instances)


def _draw_scene(
    rng: np.random.Generator, index: int, size: tuple[tuple[int, int], tuple[int, int]], shapes: int
) -> _Scene:
    """Draw image number ``index`` of a split; all its randomness comes from ``rng``."""
    height, width = (int(rng.integers(low, high + 1)) for low, high in size)
    scene = _background(rng, height, width)
    if index % _EMPTY_EVERY != _EMPTY_AT:
        count = int(rng.integers(1, shapes + 1))
        if index % _CROWD_EVERY == _CROWD_AT:
            _add_crowd(rng, scene, _random_label(rng))
            count = (count + 1) // 2
        side = min(height, width)
        if rng.uniform() < 0.25:
            # One big shape, under the others: at 160 pixels only these are COCO's "large".
            _add_shape(rng, scene, _random_label(rng), rng.uniform(0.7, 1.0) * side, middle=True)
            count -= 1
        for diameter in rng.uniform(0.14, 0.5, size=count) * side:
            _add_shape(rng, scene, _random_label(rng), max(float(diameter), 12.0))
    noise = rng.normal(scale=rng.uniform(1.5, 5.0), size=scene.image.shape).astype(np.float32)
    scene.image = np.clip(scene.image + noise, 0, 255).round().astype(np.uint8)
    return scene


# ---------------------------------------------------------------------------- annotations
def _trace(mask: np.ndarray) -> list[float]:
    """The outer boundary, along the pixels' edges, of a 4-connected mask without holes.

    Corners lie on whole coordinates (pixel ``i`` spans ``i`` to ``i + 1``), which is the outline
    that the COCO tools decode to exactly this mask. A contour through the pixels' centres, such as
    OpenCV's, would lose half a pixel all around.

    Returns:
        ``[x0, y0, x1, y1, ...]``, at least four corners, as floats: some augmentations scale the
        polygon in the type it comes in.
    """
    padded = np.pad(mask, 1)
    rows, cols = mask.nonzero()
    y = int(rows[0])
    x = int(cols[rows == y].min())
    start = (x, y)
    dx, dy = 1, 0
    corners = [start]
    while True:
        x, y = x + dx, y + dy
        if (x, y) == start:
            break
        # The mask is on the right of the path. Look at the two pixels ahead of this corner.
        right = padded[y + 1 + (dx + dy - 1) // 2, x + 1 + (dx - dy - 1) // 2]
        left = padded[y + 1 + (-dx + dy - 1) // 2, x + 1 + (dx + dy - 1) // 2]
        if not right:
            # Also where the left one is set: pixels that meet in a corner only do not connect.
            dx, dy = -dy, dx
        elif left:
            dx, dy = dy, -dx
        else:
            continue
        corners.append((x, y))
    return [float(value) for corner in corners for value in corner]


def _polygons(mask: np.ndarray, x: int = 0, y: int = 0) -> list[list[float]]:
    """Polygons, one per part, that decode to ``mask``; (x, y) is the corner of the mask.

    COCO's polygons have no holes, so a part with a hole is cut in two through the hole.
    """
    polygons: list[list[float]] = []
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    for index in range(1, count):
        rows, cols = np.nonzero(parts == index)
        top, left = int(rows.min()), int(cols.min())
        part = (parts == index)[top : rows.max() + 1, left : cols.max() + 1]
        outside = np.pad(~part, 1, constant_values=True).astype(np.uint8)
        _, ground = cv2.connectedComponents(outside, connectivity=8)
        hole = ((ground != 0) & (ground != ground[0, 0]))[1:-1, 1:-1]
        if hole.any():
            cut = int(np.median(np.nonzero(hole)[1]))
            polygons += _polygons(part[:, :cut], x + left, y + top)
            polygons += _polygons(part[:, cut:], x + left + cut, y + top)
            continue
        outline = _trace(part)
        outline[0::2] = [value + x + left for value in outline[0::2]]
        outline[1::2] = [value + y + top for value in outline[1::2]]
        polygons.append(outline)
    return polygons


def _run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed RLE: runs down the columns, the first one of zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    if flat[0]:
        counts.insert(0, 0)
    return {"counts": counts, "size": [int(mask.shape[0]), int(mask.shape[1])]}


def _annotations(scene: _Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO annotations of the visible part of every instance."""
    annotations: list[dict[str, Any]] = []
    for index, instance in enumerate(scene.instances, start=1):
        mask = scene.owner == index
        rows, cols = np.nonzero(mask)
        box = [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
        # As in COCO: whole numbers for a crowd, floats for an ordinary instance.
        number = int if instance.iscrowd else float
        annotations.append(
            {
                "segmentation": _run_lengths(mask) if instance.iscrowd else _polygons(mask),
                "area": number(len(rows)),
                "iscrowd": int(instance.iscrowd),
                "image_id": image_id,
                "bbox": [number(value) for value in box],
                "category_id": CATEGORY_IDS[instance.label],
                "id": first_id + len(annotations),
            }
        )
    return annotations


# -------------------------------------------------------------------------------- writing
def _encode(extension: str, image: np.ndarray, options: Sequence[int] = ()) -> bytes:
    """Encode an image; through memory, because ``cv2.imwrite`` returns False on a full disk."""
    done, data = cv2.imencode(extension, image, list(options))
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {extension} image of shape {image.shape}")
    return data.tobytes()


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_split(folder: Path, split: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Write one split in both formats and return what it holds."""
    coco_images = folder / "coco" / f"{split}2017"
    ade_split = {"train": "training", "val": "validation"}[split]
    ade_images = folder / "ade" / "images" / ade_split
    ade_maps = folder / "ade" / "annotations" / ade_split
    for path in (coco_images, ade_images, ade_maps, folder / "coco" / "annotations"):
        path.mkdir(parents=True, exist_ok=True)

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pixels = np.zeros(len(SEMANTIC_CLASSES) + 1, np.int64)
    present = np.zeros(len(SEMANTIC_CLASSES) + 1, np.int64)
    for index in range(arguments[f"num_{split}"]):
        # One stream per image: image k does not depend on how many images there are.
        rng = np.random.default_rng([arguments["seed"], _SPLITS.index(split), index])
        scene = _draw_scene(rng, index, arguments["image_size"], arguments["max_shapes"])
        image_id = index + 1
        name = f"{image_id:012d}.jpg"
        stem = f"ADE_{split}_{image_id:08d}"
        quality = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
        bgr = np.ascontiguousarray(scene.image[..., ::-1])
        (coco_images / name).write_bytes(_encode(".jpg", bgr, quality))
        _link_or_copy(coco_images / name, ade_images / f"{stem}.jpg")
        (ade_maps / f"{stem}.png").write_bytes(_encode(".png", scene.semantic))
        images.append(
            {
                "license": 1,
                "file_name": name,
                "coco_url": "",
                "height": int(scene.semantic.shape[0]),
                "width": int(scene.semantic.shape[1]),
                "date_captured": "2024-01-01 00:00:00",
                "flickr_url": "",
                "id": image_id,
            }
        )
        annotations += _annotations(scene, image_id, len(annotations) + 1)
        counts = np.bincount(scene.semantic.ravel(), minlength=len(pixels))
        pixels += counts
        present += counts > 0

    content = {
        "info": {
            "description": "Shapes: synthetic images in the COCO 2017 format",
            "url": "",
            "version": f"{FORMAT_VERSION}.0",
            "year": 2024,
            "contributor": "mmmetaformer",
            "date_created": "2024/01/01",
        },
        "licenses": [
            {
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
                "id": 1,
                "name": "Apache License 2.0",
            }
        ],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"supercategory": "shape", "id": CATEGORY_IDS[label], "name": name}
            for label, name in enumerate(THING_CLASSES)
        ],
    }
    target = folder / "coco" / "annotations" / f"instances_{split}2017.json"
    target.write_text(json.dumps(content), encoding="utf-8")
    return {
        "images": len(images),
        "instances": sum(1 - item["iscrowd"] for item in annotations),
        "crowds": sum(item["iscrowd"] for item in annotations),
        "pixels": pixels,
        "present": present,
    }


def _write_all(folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Write the whole data set into an empty folder and return its summary."""
    splits = {split: _write_split(folder, split, arguments) for split in _SPLITS}
    pixels = splits["train"]["pixels"] + splits["val"]["pixels"]
    lines = ["Idx\tRatio\tTrain\tVal\tName"]
    for value, name in enumerate(SEMANTIC_CLASSES, start=1):
        ratio = pixels[value] / pixels.sum()
        train, val = (splits[split]["present"][value] for split in _SPLITS)
        lines.append(f"{value}\t{ratio:.4f}\t{train}\t{val}\t{name}")
    (folder / "ade" / "objectInfo.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    counts = {
        key: {split: splits[split][key] for split in _SPLITS}
        for key in ("images", "instances", "crowds")
    }
    marker = {"format_version": FORMAT_VERSION, "arguments": arguments, "summary": counts}
    (folder / _MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    return counts


# ------------------------------------------------------------------------------ arguments
def _whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Check one whole number."""
    allowed = f"a whole number of at least {low}"
    if high is not None:
        allowed = f"a whole number from {low} to {high}"
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be {allowed}, not {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {allowed}, not {value!r}") from None
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {allowed}, not {number}")
    return number


def _size_range(name: str, value: Any) -> tuple[int, int]:
    """Check one side of the images: a number or a range of two."""
    if not isinstance(value, (tuple, list)):
        side = _whole(name, value, _MIN_SIDE, _MAX_SIDE)
        return side, side
    if len(value) != 2:
        raise ValueError(f"{name} must be a number or a range (low, high), not {value!r}")
    low, high = (_whole(name, side, _MIN_SIDE, _MAX_SIDE) for side in value)
    if low > high:
        raise ValueError(f"{name} must be a range (low, high) with low <= high, not {value!r}")
    return low, high


def _image_size(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Bring ``image_size`` into the form ((low, high), (low, high)) for height and width."""
    if not isinstance(value, (tuple, list)):
        side = _size_range("image_size", value)
        return side, side
    if len(value) != 2:
        raise ValueError(f"image_size must be a number or (height, width), not {value!r}")
    return _size_range("image_size height", value[0]), _size_range("image_size width", value[1])


def _read_marker(root: Path) -> dict[str, Any] | None:
    """The content of ``shapes.json``; None where the folder is not a shapes data set."""
    try:
        marker = json.loads((root / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    keys = {"format_version", "arguments", "summary"}
    return marker if isinstance(marker, dict) and keys <= set(marker) else None


def _existing(root: Path, wanted: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Decide about what is at ``root``: its summary to reuse it, None to write, or an error."""
    if not root.exists():
        return None
    if not root.is_dir():
        raise FileExistsError(f"{root} is a file; give the path of a folder.")
    present = {path.name for path in root.iterdir()}
    if not present:
        return None
    marker = _read_marker(root)
    if marker is None:
        raise FileExistsError(
            f"{root} is not empty and holds no shapes data set (no valid {_MARKER}), so it is left "
            "as it is; give another folder."
        )
    if overwrite:
        strange = sorted(present - {"coco", "ade", _MARKER})
        if strange:
            raise FileExistsError(
                f"{root} also holds {', '.join(strange)}, which overwriting would delete; move "
                "that away or give another folder."
            )
        return None
    found = {"format_version": marker["format_version"], **marker["arguments"]}
    if found != wanted:
        raise FileExistsError(
            f"{root} holds a shapes data set of other arguments: found {json.dumps(found)}, asked "
            f"for {json.dumps(wanted)}; pass overwrite=True (--overwrite) to replace it, or give "
            "another folder."
        )
    if not {"coco", "ade"} <= present:
        raise FileExistsError(
            f"{root} is a shapes data set with a part missing; pass overwrite=True (--overwrite) "
            "to write it again."
        )
    return marker["summary"]


def _publish(folder: Path, root: Path, replaces: bool) -> None:
    """Rename the finished ``folder`` to ``root``, which is missing or empty unless ``replaces``."""
    if not replaces:
        if root.exists():
            # Fails if something was put there meanwhile; nothing of that is ever deleted.
            root.rmdir()
        os.replace(folder, root)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{root.name}.old-", dir=root.parent))
    os.replace(root, aside / root.name)
    try:
        os.replace(folder, root)
    except BaseException:
        os.replace(aside / root.name, root)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def generate_shapes(
    root: str | os.PathLike[str],
    num_train: int = 500,
    num_val: int = 100,
    image_size: int | Sequence[int | Sequence[int]] = (160, 160),
    seed: int = 0,
    max_shapes: int = 6,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the shapes data set in the formats of COCO instances and of ADE20K.

    The files depend on the arguments and the versions of NumPy and OpenCV only. Image ``k`` of a
    split is the same however many images are asked for. The layout is::

        root/shapes.json                                    the arguments and the counts
        root/coco/{train2017,val2017}/000000000001.jpg
        root/coco/annotations/instances_{train2017,val2017}.json
        root/ade/images/{training,validation}/ADE_{train,val}_00000001.jpg
        root/ade/annotations/{training,validation}/ADE_{train,val}_00000001.png
        root/ade/objectInfo.txt

    Everything is written beside ``root`` and renamed at the end, so an interrupted run leaves no
    half data set. A data set of the same arguments is reused as it is.

    Args:
        root: Folder of the data set. Must be new, empty or a shapes data set.
        num_train: Number of training images, at least 0.
        num_val: Number of validation images, at least 0.
        image_size: Side of square images, or (height, width), where each is a number or a range
            ``(low, high)`` to draw from, both ends included; from 64 to 2048 pixels.
        seed: Seed of all randomness, at least 0.
        max_shapes: Images that are not empty hold 1 to this many shapes.
        overwrite: Write again, replacing a shapes data set that is at ``root``.

    Returns:
        ``root`` (the absolute path), ``reused`` (nothing was written), and ``images``,
        ``instances`` and ``crowds``, each with the counts of ``train`` and ``val``.

    Raises:
        TypeError: If a number is not a whole number.
        ValueError: If a number is out of its range.
        FileExistsError: If ``root`` is a file, a folder of something else, or a shapes data set
            of other arguments and ``overwrite`` is not set.
    """
    arguments: dict[str, Any] = {
        "num_train": _whole("num_train", num_train, 0),
        "num_val": _whole("num_val", num_val, 0),
        "image_size": [list(side) for side in _image_size(image_size)],
        "seed": _whole("seed", seed, 0),
        "max_shapes": _whole("max_shapes", max_shapes, 1, 20),
    }
    if arguments["num_train"] + arguments["num_val"] == 0:
        raise ValueError("num_train and num_val are both 0; at least one image is needed")
    wanted = {"format_version": FORMAT_VERSION, **arguments}
    # Resolved: renaming must replace the folder that a link points to, not the link.
    root = Path(root).expanduser().resolve()
    summary = _existing(root, wanted, overwrite)
    if summary is not None:
        return {"root": str(root), "reused": True, **summary}

    replaces = root.exists() and any(root.iterdir())
    root.parent.mkdir(parents=True, exist_ok=True)
    outer = Path(tempfile.mkdtemp(prefix=f".{root.name}.new-", dir=root.parent))
    try:
        # One level down, because mkdtemp makes folders that only their owner can read.
        folder = outer / "data"
        folder.mkdir()
        summary = _write_all(folder, arguments)
        try:
            _publish(folder, root, replaces)
        except OSError:
            # Another process may have finished the same data set in the meantime.
            other = None if replaces else _existing(root, wanted, overwrite=False)
            if other is None:
                raise
            return {"root": str(root), "reused": True, **other}
    finally:
        shutil.rmtree(outer, ignore_errors=True)
    return {"root": str(root), "reused": False, **summary}
