"""Old import paths of what has moved from the package into the folder ``tools/`` beside it."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def forward(old: str, new: str) -> ModuleType:
    """Make an old module name, and those of its submodules, names of modules in ``tools/``.

    Args:
        old: Full name of the module in the package, which calls this while it is imported.
        new: Name of the module from ``tools/`` on, such as ``'tool_support.launch'``.

    Returns:
        The module in ``tools/``.

    Raises:
        ImportError: If there is no such folder, as beside an installed wheel.
    """
    place = f"tools/{new.replace('.', '/')}"
    if not (TOOLS / new.partition(".")[0]).is_dir():
        raise ImportError(
            f"{old} has moved out of the package: it is {place} in the repository of mmmetaformer, "
            "so use a checkout of it",
            name=old,
        )
    warnings.warn(
        f"{old} has moved to {place}: put tools/ on the Python path and import {new}",
        DeprecationWarning,
        stacklevel=3,  # the import statement: frames of the import system do not count
    )
    if str(TOOLS) not in sys.path:
        sys.path.append(str(TOOLS))
    module = sys.modules[old] = importlib.import_module(new)
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        part = importlib.import_module(f"{new}.{found.name}")
        sys.modules[f"{old}.{found.name}"] = part
    return module
