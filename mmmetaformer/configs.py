"""The configs of this package by their names."""

from __future__ import annotations

import difflib
import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

# In a checkout a link to configs/, which paths are shown by.
FOLDER = (Path(__file__).parent / ".mim" / "configs").resolve()
_BASES = "_base_"


def list_configs(pattern: str = "*") -> list[str]:
    """Names of the configs.

    Args:
        pattern: What they match, such as ``'mask-rcnn_caformer-*'``.
    """
    return fnmatch.filter(sorted(_known()), pattern)


def get_config(config: str) -> Config:
    """Read a config.

    Args:
        config: A name (``'mask-rcnn_poolformer-s12_fpn_1x_coco'``), also behind its folder
            (``'poolformer/...'``) or ``mmmetaformer::``, or the path of a file.

    Raises:
        ValueError: If there is no such config; names the nearest.
    """
    from mmengine.config import Config

    return Config.fromfile(find_config(config))


def find_config(config: str) -> Path:
    """The file of a config; see :func:`get_config`."""
    if Path(config).is_file():
        return Path(config)
    path = _by_name(config)
    if path is None:
        near = difflib.get_close_matches(Path(config).name.removesuffix(".py"), _known())
        hint = f"did you mean {' or '.join(near)}?" if near else "see `mmmetaformer configs`"
        raise ValueError(f"config {config!r} does not exist: {hint}")
    return path


def is_config(text: str) -> bool:
    """Whether a text that may also be something else, such as an arch, is a config."""
    return text.endswith(".py") or _by_name(text) is not None


def _by_name(text: str) -> Path | None:
    folder, _, name = text.removeprefix("mmmetaformer::").removesuffix(".py").rpartition("/")
    path = _known().get(name)
    return path if path and folder in ("", path.parent.name) else None


def _known() -> dict[str, Path]:
    paths = (path for path in FOLDER.glob("*/*.py") if path.parent.name != _BASES)
    return {path.stem: path for path in paths}
