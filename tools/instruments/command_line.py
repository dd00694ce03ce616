"""What the three tools share: arguments and reading what they name."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import check_sides, find_device, image_size, positive
from tool_support.results import as_json, make_folder, not_a_file, write_files

from .images import Picture, Preprocessing, find_images, read_picture
from .models import LoadedModel, load_model, model_spec


def add_arguments(
    parser: argparse.ArgumentParser, name: str, size: tuple[int, int], max_images: int
) -> None:
    """The arguments of all three tools.

    Args:
        parser: The parser of the tool.
        name: The instrument, which names its default folder.
        size: Default height and width of the images.
        max_images: Default number of images.
    """
    parser.add_argument(
        "models",
        nargs="+",
        type=model_spec,
        metavar="[LABEL=]NETWORK[@CHECKPOINT]",
        help="networks to compare: an arch of mmmetaformer.list_archs() or a config of a detector "
        "or segmentor (a path that ends in .py), with a checkpoint of the backbone alone or of "
        "the whole model; without one the weights are random, or what the config loads",
    )
    parser.add_argument(
        "--images", nargs="+", required=True, metavar="PATH", help="images, or folders of them"
    )
    parser.add_argument(
        "--max-images", type=positive, default=max_images, help=f"at most; {max_images}"
    )
    parser.add_argument(
        "--size",
        type=image_size,
        default=size,
        help=f"HEIGHTxWIDTH that images are resized to; {size[0]}x{size[1]}",
    )
    for option, what in (("--mean", "mean"), ("--std", "standard deviation")):
        parser.add_argument(
            option,
            nargs=3,
            type=float,
            metavar=("R", "G", "B"),
            help=f"{what} of the normalisation, 0 to 255; the config's, or ImageNet's",
        )
    parser.add_argument("--seed", type=int, default=0, help="of random weights; 0")
    parser.add_argument("--device", help="cuda or cpu; a GPU where there is one")
    parser.add_argument("--out", default=f"work_dirs/instruments/{name}", help="folder of results")


@dataclass
class Session:
    """What a command line names, read and built.

    Attributes:
        models: The networks.
        pictures: The images.
        device: Where the networks run.
        out: Folder of the results, which exists.
    """

    models: list[LoadedModel]
    pictures: list[Picture]
    device: torch.device
    out: Path

    def images(self, model: LoadedModel) -> Iterator[Tensor]:
        """The images as a network takes them, each (3, H, W), with a line of progress for each."""
        for number, picture in enumerate(self.pictures, 1):
            print(f"  {model.label}: image {number} of {len(self.pictures)}", flush=True)
            yield model.preprocessing(picture.pixels).to(self.device)

    def write(
        self, name: str, models: list[dict], files: Mapping[str, bytes], **settings: Any
    ) -> None:
        """Write the files of an instrument, and all figures and settings as ``NAME.json``.

        Args:
            name: The instrument.
            models: What is reported of each network.
            files: The other files by name.
            **settings: Settings of the instrument.

        Raises:
            UserError: If the folder cannot be written.
        """
        report = dict(
            size=list(self.pictures[0].pixels.shape[:2]),
            images=[str(picture.path) for picture in self.pictures],
            device=str(self.device),
            instrument=name,
            **settings,
            models=models,
        )
        write_files(self.out, [*files.items(), (f"{name}.json", as_json(report))])


def start(args: argparse.Namespace) -> Session:
    """Read and build everything that the arguments name, before any work is done.

    Raises:
        UserError: For what does not exist or does not fit; says what.
        WeightsError: If a checkpoint cannot be used.
    """
    labels = Counter(spec.label for spec in args.models)
    twice = [label for label, count in labels.items() if count > 1]
    if twice:
        raise UserError(f"two networks are called {twice[0]!r}: name them, LABEL=NETWORK")
    check_sides("--size", args.size)
    device = find_device(args.device)
    preprocessing = _preprocessing(args.mean, args.std)
    out = not_a_file(args.out)
    paths, there = find_images(args.images, args.max_images)
    models = []
    for spec in args.models:
        models.append(load_model(spec, args.seed, preprocessing, device))
        print(models[-1], flush=True)
    pictures = [read_picture(path, args.size) for path in paths]
    if there > len(paths):
        print(f"the first {len(paths)} of {there} images (--max-images)", flush=True)
    make_folder(out)
    return Session(models, pictures, device, out)


@contextmanager
def explaining(model: LoadedModel) -> Iterator[None]:
    """What cannot be measured on a network, as a :class:`UserError` that names it."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"{model.label} does not fit into the memory of the GPU: use a smaller --size, "
            "or --device cpu"
        ) from error
    except ValueError as error:
        raise UserError(f"{model.label}: {error}") from error


def _preprocessing(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocessing | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UserError("--mean and --std are given together or not at all")
    if min(std) <= 0:
        raise UserError(f"--std {' '.join(map(str, std))}: each must be positive")
    return Preprocessing(tuple(mean), tuple(std))
