"""Images from files, and how a network wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from torch import Tensor

from mmmetaformer.engine.errors import UserError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation of an image, on the scale 0 to 255.

    Attributes:
        mean: Mean of each channel.
        std: Standard deviation of each channel, positive.
        channels: ``'RGB'`` or ``'BGR'``: the order in which the network takes them, and in which
            mean and std are given.
    """

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # ImageNet's
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    channels: str = "RGB"

    def __call__(self, image: np.ndarray) -> Tensor:
        """RGB (H, W, 3), 0 to 255, to the normalised (3, H, W) in float32."""
        ordered = image if self.channels == "RGB" else image[..., ::-1]
        normalised = (ordered - np.float32(self.mean)) / np.float32(self.std)
        return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)))


@dataclass(frozen=True)
class Picture:
    """An image that was read.

    Attributes:
        path: Where from.
        pixels: RGB, (H, W, 3) in uint8, resized.
    """

    path: Path
    pixels: np.ndarray


def find_images(sources: Sequence[str], at_most: int) -> tuple[list[Path], int]:
    """The first image files among files and folders, and how many there are.

    Args:
        sources: Image files, and folders whose images are taken in the order of their names;
            folders inside them are not searched.
        at_most: How many.

    Raises:
        UserError: If a source does not exist or a folder holds no image.
    """
    paths: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(
                    f"no images in the folder {source!r}: looked for *{', *'.join(SUFFIXES)}, and "
                    "not in the folders inside it"
                )
            paths += inside
        elif path.is_file():
            paths.append(path)
        else:
            raise UserError(f"there is no image or folder {source!r}")
    return paths[:at_most], len(paths)


def read_picture(path: Path, size: tuple[int, int]) -> Picture:
    """Read an image and resize it to (height, width), whatever its aspect ratio.

    Raises:
        UserError: If the file is no image.
    """
    try:
        pixels = mmcv.imread(path)
    except (OSError, cv2.error) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error
    if pixels is None:
        raise UserError(f"{path} cannot be read as an image")
    return Picture(path, mmcv.imresize(pixels, size[::-1])[..., ::-1])
