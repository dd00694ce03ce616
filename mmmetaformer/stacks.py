"""The two stacks of OpenMMLab packages: the original one, and OneDL's maintained continuation.

Both have the same modules under other distribution names, so only one of them can be installed.
Only the standard library is imported here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent / "constraints"


@dataclass(frozen=True)
class Stack:
    """One stack.

    Attributes:
        name: What ``STACK`` and pip's extra call it.
        distributions: What pip installs for each module.
        last_python: The last minor version of Python 3 that it works on.
    """

    name: str
    distributions: dict[str, str]
    last_python: int

    @property
    def constraints(self) -> Path:
        """The versions that are tested together, a constraints file for pip."""
        return Path(os.environ.get("CONSTRAINTS") or CONSTRAINTS / f"{self.name}.txt")

    def version_of(self, distribution: str) -> str:
        """The tested version of a distribution."""
        pin = rf"^{re.escape(distribution)}==([^\s;]+)"
        found = re.search(pin, self.constraints.read_text(), re.M)
        if found is None:
            raise ValueError(f"{self.constraints} does not name {distribution}")
        return found[1]


STACKS = {
    "openmmlab": Stack(
        "openmmlab",
        dict(
            mmengine="mmengine",
            mmcv="mmcv",
            mmdet="mmdet",
            mmseg="mmsegmentation",
            mmpretrain="mmpretrain",
        ),
        last_python=12,  # the build of mmcv 2.1 fails on 3.13
    ),
    "onedl": Stack(
        "onedl",
        dict(
            mmengine="onedl-mmengine",
            mmcv="onedl-mmcv",
            mmdet="onedl-mmdetection",
            mmseg="onedl-mmsegmentation",
            mmpretrain="onedl-mmpretrain",
        ),
        last_python=13,
    ),
}
# Further distributions with the module mmcv or mmengine.
MMCVS = ("mmcv", "mmcv-lite", "mmcv-full", "onedl-mmcv")


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_of(stack: Stack) -> dict[str, str]:
    """The distributions of a stack that are installed, with their versions."""
    versions = {name: installed_version(name) for name in stack.distributions.values()}
    return {name: version for name, version in versions.items() if version is not None}


def choose_stack() -> Stack:
    """The stack that ``STACK`` names; else the installed one, of which more is there; else the
    original one, or where Python is too new for it, its continuation.

    Raises:
        ValueError: If ``STACK`` names none.
    """
    name = os.environ.get("STACK")
    if name:
        if name not in STACKS:
            raise ValueError(f"STACK={name}: expected one of {', '.join(STACKS)}")
        return STACKS[name]
    most = max(STACKS.values(), key=lambda stack: len(installed_of(stack)))
    if installed_of(most):
        return most
    fits = [stack for stack in STACKS.values() if sys.version_info[1] <= stack.last_python]
    return (fits or list(STACKS.values()))[0]


def how_to_get(module: str) -> str:
    """The command that installs what a module of OpenMMLab is in."""
    if module == "mmcv":
        return "python -m mmmetaformer.build_mmcv"
    stack = choose_stack()
    names = [stack.name] if installed_of(stack) else STACKS
    return " or ".join(f"pip install 'mmmetaformer[{name}]'" for name in names)


def explain_missing(error: ModuleNotFoundError, what: str) -> str | None:
    """One sentence for a failed import of a module of OpenMMLab.

    Args:
        error: The failed import.
        what: What needs the module.

    Returns:
        What is missing and how to get it; None if the module is not OpenMMLab's.
    """
    name = error.name or ""
    module = name.partition(".")[0]
    if module == name and module in ("torch", "torchvision"):
        return f"{what} cannot be used: {module} is not installed; get it with pip install {module}"
    if module not in STACKS["openmmlab"].distributions:
        return None
    if name.startswith("mmcv._ext"):
        lack = "mmcv is installed without compiled operators (mmcv-lite)"
    elif name == module:
        lack = f"{module} is not installed"
    else:
        return None
    return f"{what} cannot be used: {lack}; get it with {how_to_get(module)}"


if __name__ == "__main__":
    try:
        print(choose_stack().name)
    except ValueError as error:
        sys.exit(f"error: {error}")
