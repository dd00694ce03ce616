"""A small synthetic data set in the formats of COCO instances and ADE20K scene parsing.

It needs no download and exercises what real annotation files contain: polygons in several parts,
crowd regions as run lengths, category ids with gaps, images without any object.
"""

from __future__ import annotations

import json
import numbers
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.random import Generator

#: Classes of the instances, in the order of the COCO categories.
THING_CLASSES = ("circle", "rectangle", "triangle", "star", "cross")
#: Classes of the semantic maps; class ``i`` is stored as the pixel value ``i + 1``, 0 is "other".
SEMANTIC_CLASSES = (*THING_CLASSES, "plain", "striped")
#: Category id of each thing class. With gaps and not from 0, as in COCO, so that code which takes
#: an id for an index fails here and not on the real data.
CATEGORY_IDS = (1, 2, 4, 5, 8)
#: Part of ``shapes.json``; raise it whenever the same arguments give other files than before.
FORMAT_VERSION = 1

_MARKER = "shapes.json"
# The splits, and their folders in ADE20K.
_SPLITS = {"train": "training", "val": "validation"}
_OTHER, _PLAIN, _STRIPED = 0, len(THING_CLASSES) + 1, len(THING_CLASSES) + 2
# A shape needs enough of itself in view for its class to be a fair question.
_MIN_VISIBLE, _MIN_VISIBLE_CROWD, _MIN_VISIBLE_PIXELS = 0.45, 0.6, 30
_MIN_INSIDE = 0.55

_Shape: TypeAlias = tuple[int, int]


def _direction(rng: Generator) -> tuple[float, float]:
    """A random unit vector (x, y)."""
    angle = rng.uniform(0, 2 * np.pi)
    return float(np.cos(angle)), float(np.sin(angle))


def _ramp(rng: Generator, shape: _Shape) -> np.ndarray:
    """Distance in pixels along a random direction, (H, W)."""
    dx, dy = _direction(rng)
    ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return xs * dx + ys * dy


def _wave(ramp: np.ndarray, period: float) -> np.ndarray:
    return np.sin(ramp * (2 * np.pi / period))


def _smooth_noise(rng: Generator, shape: _Shape, cell: float) -> np.ndarray:
    """Noise of about unit variance that varies over ``cell`` pixels, (H, W)."""
    grid = rng.normal(size=[int(side / cell) + 2 for side in shape]).astype(np.float32)
    return cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _beyond_line(
    rng: Generator, shape: _Shape, low: float, high: float, cell: float, wobble: float
) -> np.ndarray:
    """The pixels beyond a wavy line, which leaves a share from ``low`` to ``high`` before it."""
    ramp = _ramp(rng, shape)
    edge = np.quantile(ramp, rng.uniform(low, high))
    return ramp + _smooth_noise(rng, shape, cell) * (wobble * min(shape)) > edge


def _shaded(colour: np.ndarray, shade: np.ndarray) -> np.ndarray:
    """The colour (3,), lighter or darker by ``shade`` (H, W); returns (H, W, 3)."""
    return colour + shade[..., None].astype(np.float32)


# Grounds are muted and shapes vivid, and each class has a range of hues of its own beside its form,
# as many classes of real objects do; stripes are darker than plain ground. Form alone takes a
# network of this size, from scratch, longer to learn than the few minutes of a quickstart.
def _muted(rng: Generator, low: float, high: float) -> np.ndarray:
    """A colour close to grey, (3,)."""
    return (rng.uniform(low, high) + rng.uniform(-14, 14, size=3)).astype(np.float32)


def _vivid(rng: Generator, count: int, label: int) -> np.ndarray:
    """Saturated colours from a class's range of hues, (count, 3)."""
    hue = (label + rng.uniform(-0.45, 0.45, size=(count, 1))) * (6 / len(THING_CLASSES))
    value, saturation = rng.uniform(150, 245, (count, 1)), rng.uniform(0.55, 1.0, (count, 1))
    # For each channel the distance to the hue where it is least.
    distance = np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3)
    return (value * (1 - saturation * np.clip(2 - distance, 0, 1))).astype(np.float32)


def _texture(rng: Generator, size: int, colour: np.ndarray) -> np.ndarray:
    """A square patch around ``colour``: flat, gradient, stripes, dots or noise; (size, size, 3)."""
    shape = (size, size)
    kind, amplitude = rng.integers(5), np.float32(rng.uniform(10, 26))
    if kind == 0:
        shade = np.zeros(shape)
    elif kind == 1:
        ramp = _ramp(rng, shape)
        shade = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1.0) * 2 - 1
    elif kind == 2:
        period = rng.uniform(4, 10)
        shade = np.sign(_wave(_ramp(rng, shape), period))
    elif kind == 3:
        period = rng.uniform(4, 9)
        waves = _wave(_ramp(rng, shape), period) * _wave(_ramp(rng, shape), period)
        shade = np.where(waves > 0.35, 1.0, -0.3)
    else:
        shade = np.clip(_smooth_noise(rng, shape, 2.5), -2, 2) * 0.6
    return _shaded(colour, amplitude * shade.astype(np.float32))


def _plain_ground(rng: Generator, shape: _Shape) -> np.ndarray:
    """A soft gradient with slow blotches: the 'plain' class."""
    colour, ramp = _muted(rng, 115, 210), _ramp(rng, shape)
    shade = (ramp - ramp.mean()) / max(float(np.ptp(ramp)), 1.0) * rng.uniform(10, 60)
    return _shaded(colour, shade + _smooth_noise(rng, shape, min(shape) / 5) * rng.uniform(2, 8))


def _striped_ground(rng: Generator, shape: _Shape) -> np.ndarray:
    """Slightly wavy stripes of two related colours: the 'striped' class."""
    colour = _muted(rng, 45, 115)
    other = colour + (rng.choice([-1, 1]) * rng.uniform(36, 60) + rng.uniform(-6, 6, size=3))
    period = rng.uniform(0.06, 0.12) * min(shape)
    ramp = _ramp(rng, shape)
    ramp = ramp + _smooth_noise(rng, shape, min(shape) / 3) * (0.15 * period)
    weight = np.clip(_wave(ramp, period) * 2, -1, 1) * 0.5 + 0.5
    return colour + weight[..., None].astype(np.float32) * (other - colour).astype(np.float32)


def _background(rng: Generator, shape: _Shape) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) of plain or striped ground or both, and its semantic map (H, W)."""
    side = min(shape)
    layout = rng.uniform()
    if layout < 0.5:
        striped = np.full(shape, layout >= 0.25)
    else:
        striped = _beyond_line(rng, shape, 0.3, 0.7, side / 3, 0.05)
    plain_ground, striped_ground = _plain_ground(rng, shape), _striped_ground(rng, shape)
    image = np.where(striped[..., None], striped_ground, plain_ground)
    semantic = np.where(striped, _STRIPED, _PLAIN).astype(np.uint8)
    if rng.uniform() < 0.3:  # a patch of coarse speckle
        other = _beyond_line(rng, shape, 0.75, 0.92, side / 4, 0.04)
        colour = _muted(rng, 50, 205)
        speckle = _smooth_noise(rng, shape, 3.5) * rng.uniform(16, 26)
        image[other] = _shaded(colour, speckle)[other]
        semantic[other] = _OTHER
    if rng.uniform() < 0.2:  # a frame
        thick = int(rng.integers(2, 5))
        frame = np.ones(shape, bool)
        frame[thick:-thick, thick:-thick] = False
        image[frame] = rng.uniform(10, 245)
        semantic[frame] = _OTHER
    return image, semantic


def _polygon(rng: Generator, name: str) -> np.ndarray:
    """Vertices of a polygon at a random angle in the unit circle, (n, 2)."""
    if name == "rectangle":
        ratio = rng.uniform(0.45, 1.0)
        points = np.array([[1, ratio], [-1, ratio], [-1, -ratio], [1, -ratio]]) / np.hypot(1, ratio)
    elif name == "cross":
        t = rng.uniform(0.26, 0.38)
        x = np.array([1, 1, t, t, -t, -t, -1, -1, -t, -t, t, t])
        points = np.stack([x, np.roll(x, 3)], axis=1) / np.hypot(1, t)
    elif name == "star":
        angles, radii = np.arange(10) * (np.pi / 5), np.tile([1, rng.uniform(0.4, 0.5)], 5)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    else:
        # Within 15 degrees of equilateral, so that no sliver appears.
        angles = np.deg2rad([90, 210, 330] + rng.uniform(-15, 15, size=3))
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    c, s = _direction(rng)
    return points @ np.array([[c, s], [-s, c]])


def _rasterise(rng: Generator, label: int, diameter: float) -> tuple[np.ndarray, np.ndarray]:
    """The mask and the coverage in [0, 1] of a shape at a random angle and sub-pixel position."""
    radius, name = diameter / 2, THING_CLASSES[label]
    points = None if name == "circle" else _polygon(rng, name) * radius
    size = int(np.ceil(diameter)) + 3
    centre = size / 2 + rng.uniform(-0.5, 0.5, size=2)
    # Three samples per pixel and direction; the middle one is the centre of the pixel.
    ticks = (np.arange(size * 3) + 0.5) / 3
    xs, ys = ticks[None, :] - centre[0], ticks[:, None] - centre[1]
    if points is None:
        inside = xs**2 + ys**2 <= radius**2
    else:
        inside = np.zeros((size * 3, size * 3), bool)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if y0 != y1:
                inside ^= ((ys < y0) != (ys < y1)) & (xs < (ys - y0) * ((x1 - x0) / (y1 - y0)) + x0)
    coverage = inside.reshape(size, 3, size, 3).mean(axis=(1, 3), dtype=np.float32)
    return inside[1::3, 1::3].astype(np.uint8), coverage


def _polygons(mask: np.ndarray, x: int = 0, y: int = 0) -> list[list[float]]:
    """Polygons, one per part, that the COCO tools decode to ``mask``; (x, y) is its corner.

    Corners lie on the pixels' edges (pixel ``i`` spans ``i`` to ``i + 1``), as floats: some
    augmentations scale a polygon in the type it comes in. COCO's polygons have no holes, so a part
    with a hole is cut in two through the hole.
    """
    polygons: list[list[float]] = []
    _, parts, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for index, (left, top, width, height, _) in enumerate(boxes[1:].tolist(), start=1):
        part = (parts[top : top + height, left : left + width] == index).astype(np.uint8)
        # OpenCV's contours run through the centres of pixels. In a mask four times as large and
        # thinner by one pixel, those are known steps from the true edges, and pixels that meet in
        # a corner only stay apart.
        enlarged = np.pad(part.repeat(4, axis=0).repeat(4, axis=1), 1)
        thinned = cv2.erode(enlarged, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        contours, _ = cv2.findContours(thinned, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        filled = cv2.drawContours(np.zeros_like(thinned), contours, 0, 1, cv2.FILLED)
        hole = filled[1::4, 1::4] > part
        if hole.any():
            cut = int(np.median(np.nonzero(hole)[1]))
            polygons += _polygons(part[:, :cut], x + left, y + top)
            polygons += _polygons(part[:, cut:], x + left + cut, y + top)
            continue
        # Clockwise from the first pixel; both ends of a diagonal step are one inner corner.
        corners = (np.roll(contours[0][::-1, 0], 1, axis=0) + 2) // 4
        corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
        polygons.append((corners + (x + left, y + top)).ravel().astype(float).tolist())
    return polygons


def _run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed RLE: runs down the columns, the first one of zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(changes, prepend=0, append=flat.size)
    return {"counts": counts.tolist(), "size": list(mask.shape)}


@dataclass
class _Instance:
    """A drawn object: its class (index), its pixels if nothing covered or cut it, crowd flag."""

    label: int
    full_area: int
    iscrowd: bool = False


class _Scene:
    """Image ``index`` of a split, (H, W, 3), and its maps, (H, W).

    ``semantic`` holds the classes, ``owner`` the 1-based instance that each pixel shows (0: none).
    All randomness comes from ``rng``.
    """

    def __init__(
        self, rng: Generator, index: int, size: Sequence[Sequence[int]], max_shapes: int
    ) -> None:
        height, width = (int(rng.integers(low, high + 1)) for low, high in size)
        self.rng, self.shape, self.side = rng, (height, width), min(height, width)
        self.image, self.semantic = _background(rng, self.shape)
        self.owner = np.zeros(self.shape, np.int32)
        self.instances: list[_Instance] = []
        # Every 20th image has no object and every 8th a crowd: fixed positions rather than chance,
        # so that even a set of eight images has one of each. The two series never meet.
        if index % 20 != 5:
            count = int(rng.integers(1, max_shapes + 1))
            if index % 8 == 3:
                self.add_crowd(self.random_label())
                count = (count + 1) // 2
            if rng.uniform() < 0.25:
                # One big shape, under the others: at 160 pixels only these are COCO's "large".
                self.add_shape(self.random_label(), rng.uniform(0.7, 1.0) * self.side, margin=0.38)
                count -= 1
            for diameter in rng.uniform(0.14, 0.5, size=count) * self.side:
                self.add_shape(self.random_label(), max(float(diameter), 12.0))
        noise = rng.normal(scale=rng.uniform(1.5, 5.0), size=self.image.shape).astype(np.float32)
        self.image = np.clip(self.image + noise, 0, 255).round().astype(np.uint8)

    def random_label(self) -> int:
        """The index of a thing class, all alike in frequency."""
        return int(self.rng.integers(len(THING_CLASSES)))

    def place(self, patch: np.ndarray, x: float, y: float) -> np.ndarray:
        """An empty image with the middle of a square patch at (x, y), cut at the borders."""
        left, top = (round(middle - len(patch) / 2) for middle in (x, y))
        shift = np.array([[1, 0, left], [0, 1, top]], np.float32)
        return cv2.warpAffine(patch, shift, self.shape[::-1], flags=cv2.INTER_NEAREST)

    def paint(self, label: int, mask: np.ndarray, coverage: np.ndarray, x: float, y: float) -> None:
        """Draw the shape with this mask in the image and this coverage in a patch at (x, y)."""
        # Of the class's colours, take one that stands out from what surrounds the shape.
        ring = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & ~mask
        around = self.image[ring]
        around = around[:: max(1, len(around) // 150)]
        candidates = _vivid(self.rng, 24, label)
        distance = np.linalg.norm(candidates[:, None] - around[None], axis=-1)
        contrast = np.quantile(distance, 0.1, axis=1)
        good = np.flatnonzero(contrast >= 60)
        colour = candidates[good[0] if len(good) else int(contrast.argmax())]
        texture = self.place(_texture(self.rng, len(coverage), colour), x, y)
        self.image += self.place(coverage, x, y)[..., None] * (texture - self.image)
        self.semantic[mask] = label + 1

    def is_fair(self, mask: np.ndarray, area: int) -> bool:
        """Whether a shape of ``area`` pixels, drawn in ``mask``, leaves all instances in view."""
        visible = np.bincount(self.owner[~mask], minlength=len(self.instances) + 1)
        visible[0] = mask.sum()
        shares = {True: _MIN_VISIBLE_CROWD, False: _MIN_VISIBLE}
        needed = [_MIN_INSIDE * area, *(shares[i.iscrowd] * i.full_area for i in self.instances)]
        return bool(np.all(visible >= np.maximum(needed, _MIN_VISIBLE_PIXELS)))

    def add(self, instance: _Instance, mask: np.ndarray) -> None:
        """Put an instance on top; it shows in the pixels of ``mask``."""
        self.instances.append(instance)
        self.owner[mask] = len(self.instances)

    def add_shape(self, label: int, diameter: float, margin: float = 0.02) -> None:
        """Draw a shape where it leaves enough of itself and of the others in view, if anywhere.

        ``margin`` is the least distance of its centre to the border, as a share of the image's.
        """
        rng = self.rng
        patch, coverage = _rasterise(rng, label, diameter)
        area = int(patch.sum())
        single = [i for i, instance in enumerate(self.instances, 1) if not instance.iscrowd]
        for _ in range(30):
            x, y = rng.uniform(margin, 1 - margin, size=2) * self.shape[::-1]
            if single and rng.uniform() < 0.3:
                # Left to chance, shapes seldom meet: put some of them next to an earlier one.
                ys, xs = np.nonzero(self.owner == int(rng.choice(single)))
                dx, dy = _direction(rng)
                reach = (diameter + np.sqrt(len(xs))) / 2 * rng.uniform(0.5, 0.9)
                x, y = xs.mean() + dx * reach, ys.mean() + dy * reach
            mask = self.place(patch, x, y).astype(bool)
            if self.is_fair(mask, area):
                self.paint(label, mask, coverage, x, y)
                self.add(_Instance(label, area), mask)
                return

    def add_crowd(self, label: int) -> None:
        """Draw a cluster of tiny shapes of one class: a single crowd region, gaps included."""
        rng, size = self.rng, np.array(self.shape[::-1])
        centre = rng.uniform(0.25, 0.75, size=2) * size
        reach = rng.uniform(0.19, 0.27) * self.side
        tiny = max(7.0, rng.uniform(0.065, 0.095) * self.side)
        wanted = int(rng.integers(9, 17))
        union = np.zeros(self.shape, bool)
        centres: list[np.ndarray] = []
        for _ in range(400):
            if len(centres) == wanted:
                break
            at = centre + np.array(_direction(rng)) * (reach * np.sqrt(rng.uniform()))
            is_inside = np.all((tiny / 2 <= at) & (at <= size - tiny / 2))
            if not is_inside or any(np.hypot(*(at - other)) < tiny for other in centres):
                continue
            centres.append(at)
            patch, coverage = _rasterise(rng, label, tiny)
            mask = self.place(patch, *at).astype(bool)
            self.paint(label, mask, coverage, *at)
            union |= mask
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, [2 * round(tiny * 0.6) + 1] * 2)
        region = cv2.morphologyEx(union.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0
        region |= union
        # The ground between the shapes is neither the class nor clean ground.
        self.semantic[region & ~union] = _OTHER
        self.add(_Instance(label, int(region.sum()), iscrowd=True), region)

    def annotations(self, image_id: int, first_id: int) -> list[dict[str, Any]]:
        """COCO annotations of the visible part of every instance."""
        annotations = []
        for index, instance in enumerate(self.instances):
            mask = self.owner == index + 1
            # As in COCO: whole numbers for a crowd, floats for an ordinary instance.
            number = int if instance.iscrowd else float
            annotations.append({
                "segmentation": _run_lengths(mask) if instance.iscrowd else _polygons(mask),
                "area": number(mask.sum()), "iscrowd": int(instance.iscrowd), "image_id": image_id,
                "bbox": [number(value) for value in cv2.boundingRect(mask.astype(np.uint8))],
                "category_id": CATEGORY_IDS[instance.label], "id": first_id + index,
            })  # fmt: skip
        return annotations


_COCO_JSON: dict[str, Any] = {
    "info": {
        "description": "Shapes: synthetic images in the COCO 2017 format", "url": "",
        "version": f"{FORMAT_VERSION}.0", "year": 2024, "contributor": "mmmetaformer",
        "date_created": "2024/01/01",
    },
    "licenses": [{
        "url": "https://www.apache.org/licenses/LICENSE-2.0", "id": 1, "name": "Apache License 2.0",
    }],
    "images": [],
    "annotations": [],
    "categories": [
        {"supercategory": "shape", "id": category_id, "name": name}
        for category_id, name in zip(CATEGORY_IDS, THING_CLASSES, strict=True)
    ],
}  # fmt: skip


def _write_split(
    folder: Path, split: str, arguments: dict[str, Any]
) -> tuple[dict[str, int], np.ndarray]:
    """Write one split in both formats; returns its counts and the pixels per image and class."""
    coco_images, coco_json = folder / f"coco/{split}2017", folder / "coco/annotations"
    ade_images = folder / "ade/images" / _SPLITS[split]
    ade_maps = folder / "ade/annotations" / _SPLITS[split]
    for path in (coco_images, coco_json, ade_images, ade_maps):
        path.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pixels = np.zeros((arguments[f"num_{split}"], len(SEMANTIC_CLASSES) + 1), np.int64)
    for index in range(len(pixels)):
        # One stream per image: image k does not depend on how many images there are.
        rng = np.random.default_rng([arguments["seed"], list(_SPLITS).index(split), index])
        scene = _Scene(rng, index, arguments["image_size"], arguments["max_shapes"])
        image_id, (height, width) = index + 1, scene.shape
        name, stem = f"{image_id:012d}.jpg", f"ADE_{split}_{image_id:08d}"
        # Encoded in memory, because ``cv2.imwrite`` raises no error on a full disk.
        bgr = np.ascontiguousarray(scene.image[..., ::-1])
        jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()
        (coco_images / name).write_bytes(jpeg)
        (ade_images / f"{stem}.jpg").write_bytes(jpeg)
        (ade_maps / f"{stem}.png").write_bytes(cv2.imencode(".png", scene.semantic)[1].tobytes())
        images.append({
            "license": 1, "file_name": name, "coco_url": "", "height": height, "width": width,
            "date_captured": "2024-01-01 00:00:00", "flickr_url": "", "id": image_id,
        })  # fmt: skip
        annotations += scene.annotations(image_id, len(annotations) + 1)
        pixels[index] = np.bincount(scene.semantic.ravel(), minlength=pixels.shape[1])
    content = json.dumps(_COCO_JSON | {"images": images, "annotations": annotations})
    (coco_json / f"instances_{split}2017.json").write_text(content, encoding="utf-8")
    crowds = sum(item["iscrowd"] for item in annotations)
    counts = {"images": len(images), "instances": len(annotations) - crowds, "crowds": crowds}
    return counts, pixels


def _write_all(folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Write the whole data set into an empty folder and return its summary."""
    splits = {split: _write_split(folder, split, arguments) for split in _SPLITS}
    total = np.concatenate([pixels for _, pixels in splits.values()]).sum(axis=0)
    train, val = ((pixels > 0).sum(axis=0) for _, pixels in splits.values())
    lines = ["Idx\tRatio\tTrain\tVal\tName\n"]
    for value, name in enumerate(SEMANTIC_CLASSES, start=1):
        ratio = total[value] / total.sum()
        lines.append(f"{value}\t{ratio:.4f}\t{train[value]}\t{val[value]}\t{name}\n")
    (folder / "ade" / "objectInfo.txt").write_text("".join(lines), encoding="utf-8")
    counts = {split: counts for split, (counts, _) in splits.items()}
    summary = {key: {s: counts[s][key] for s in _SPLITS} for key in counts["train"]}
    marker = {"format_version": FORMAT_VERSION, "arguments": arguments, "summary": summary}
    (folder / _MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    return summary


def _whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Check one whole number."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    wrong = f"{name} must be a whole number {bounds}, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(wrong)
    number = int(value)
    if number < low or (high is not None and number > high):
        raise ValueError(wrong)
    return number


def _image_size(value: Any) -> list[list[int]]:
    """Bring ``image_size`` into the form [[low, high], [low, high]] for height and width."""
    sides = value if isinstance(value, (tuple, list)) else (value, value)
    ranges = [side if isinstance(side, (tuple, list)) else (side, side) for side in sides]
    if [len(bounds) for bounds in ranges] == [2, 2]:
        checked = [
            [_whole(f"image_size {axis}", bound, 64, 2048) for bound in bounds]
            for axis, bounds in zip(("height", "width"), ranges, strict=True)
        ]
        if all(low <= high for low, high in checked):
            return checked
    raise ValueError(
        "image_size must be a side or (height, width), each a number or a range (low, high) with "
        f"low <= high, not {value!r}"
    )


def _existing(root: Path, wanted: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Decide about what is at ``root``: its summary to reuse it, None to write, or an error."""
    if not root.exists():
        return None
    if not root.is_dir():
        raise FileExistsError(f"{root} is a file; give the path of a folder.")
    present = {path.name for path in root.iterdir()}
    if not present:
        return None
    try:
        marker = json.loads((root / _MARKER).read_text(encoding="utf-8"))
        found = {"format_version": marker["format_version"], **marker["arguments"]}
        summary = marker["summary"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(
            f"{root} is not empty and holds no shapes data set (no valid {_MARKER}), so it is left "
            "as it is; give another folder."
        ) from None
    if overwrite:
        strange = ", ".join(sorted(present - {"coco", "ade", _MARKER}))
        if not strange:
            return None
        problem = f"also holds {strange}, which overwriting would delete; move that away"
    elif found != wanted:
        problem = (
            f"holds a shapes data set of other arguments: found {json.dumps(found)}, asked for "
            f"{json.dumps(wanted)}; pass overwrite=True (--overwrite) to replace it"
        )
    elif not {"coco", "ade"} <= present:
        problem = "is a shapes data set with a part missing; pass overwrite=True (--overwrite)"
    else:
        return summary
    raise FileExistsError(f"{root} {problem} or give another folder.")


def _write_beside(root: Path, arguments: dict[str, Any], replaces: bool) -> dict[str, Any]:
    """Write the data set in a folder beside ``root`` and rename it at the end.

    Unless it ``replaces`` a data set, ``root`` must be missing or empty at that moment.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{root.name}.", dir=root.parent, ignore_cleanup_errors=True
    ) as temporary:
        # One level down, because only their owner can read temporary folders.
        new, old = Path(temporary, "new"), Path(temporary, "old")
        summary = _write_all(new, arguments)
        try:
            if replaces:
                os.replace(root, old)
            elif root.exists():
                # Fails if something was put there meanwhile; nothing of that is ever deleted.
                root.rmdir()
            os.replace(new, root)
        except BaseException:
            if old.exists():
                os.replace(old, root)
            raise
    return summary


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

    The files depend on the arguments and the versions of NumPy and OpenCV only; image ``k`` of a
    split is the same however many there are. ``root/coco`` and ``root/ade`` are laid out as COCO
    2017 and ADEChallengeData2016 are; ``root/shapes.json`` holds the arguments and the counts. An
    interrupted run leaves nothing. A data set of the same arguments is reused as it is.

    Args:
        root: Folder of the data set. Must be new, empty or a shapes data set.
        num_train, num_val: Numbers of images, at least 0 and not both 0.
        image_size: Side of square images, or (height, width), where each is a number or a range
            ``(low, high)`` to draw from, both ends included; from 64 to 2048 pixels.
        max_shapes: Images that are not empty hold 1 to this many shapes, at most 20.
        overwrite: Write again, replacing a shapes data set that is at ``root``.

    Returns:
        ``root`` (the absolute path), ``reused`` (nothing was written), and ``images``,
        ``instances`` and ``crowds``, each with the counts of ``train`` and ``val``.

    Raises:
        TypeError, ValueError: If a number is not a whole number, or out of its range.
        FileExistsError: If something else is at ``root``, or a shapes data set of other arguments
            and ``overwrite`` is not set.
    """
    arguments: dict[str, Any] = {
        "num_train": _whole("num_train", num_train, 0),
        "num_val": _whole("num_val", num_val, 0),
        "image_size": _image_size(image_size),
        "seed": _whole("seed", seed, 0),
        "max_shapes": _whole("max_shapes", max_shapes, 1, 20),
    }
    if arguments["num_train"] + arguments["num_val"] == 0:
        raise ValueError("num_train and num_val are both 0; at least one image is needed")
    wanted = {"format_version": FORMAT_VERSION, **arguments}
    # Resolved: renaming must replace the folder that a link points to, not the link.
    root = Path(root).expanduser().resolve()
    summary = _existing(root, wanted, overwrite)
    reused = summary is not None
    if summary is None:
        replaces = root.exists() and any(root.iterdir())
        try:
            summary = _write_beside(root, arguments, replaces)
        except OSError:
            # Another process may have finished the same data set in the meantime.
            summary = None if replaces else _existing(root, wanted, overwrite=False)
            if summary is None:
                raise
            reused = True
    return {"root": str(root), "reused": reused, **summary}
