"""Old import paths of modules that have moved, which keep working with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

TOOLS = Path(__file__).resolve().parents[1] / "tools"

# New names without the name of the package are those of modules in ``tools/``.
MOVED = {
    "mmmetaformer.backbones.block": "mmmetaformer.backbones.metaformer",
    "mmmetaformer.backbones.hierarchical": "mmmetaformer.backbones.metaformer",
    "mmmetaformer.backbones.variants": "mmmetaformer.variants",
    "mmmetaformer.zoo": "model_zoo",
    "mmmetaformer.benchmark": "benchmarking",
    "mmmetaformer.instruments": "instruments",
    "mmmetaformer.engine.drawing": "tool_support.drawing",
    "mmmetaformer.engine.results": "tool_support.results",
    "mmmetaformer.engine.whole_model": "tool_support.whole_model",
    "mmmetaformer.fused.kernels": "triton_kernels",
}


# Classes and functions by the modules that they were in.
MOVED_NAMES = {
    "mmmetaformer.layers.ConvDownsampling": "mmmetaformer.backbones.metaformer",
    "mmmetaformer.layers.downsampling.ConvDownsampling": "mmmetaformer.backbones.metaformer",
    "mmmetaformer.layers.norm.build_norm": "mmmetaformer.layers.norm_config",
    "mmmetaformer.backbones.arch.full_name": "mmmetaformer.variants",
    "mmmetaformer.backbones.arch.list_archs": "mmmetaformer.variants",
}


def moved_name(module: str, name: str) -> object:
    """What a module's ``__getattr__`` returns for a name that has moved.

    Raises:
        AttributeError: If it has not.
    """
    place = MOVED_NAMES.get(f"{module}.{name}")
    if place is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    message = f"{module}.{name} has moved to {place}: import it from there"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(place), name)


class MovedModules:
    """Finds and loads modules by their old names, after all other finders have found nothing."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # It is a loader in all but its base class, whose import costs time.
        return ModuleSpec(name, cast(Any, self)) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _moved_module(spec.name, MOVED[spec.name])
        self._own_spec = module.__spec__  # the import system replaces it
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec


def _moved_module(old: str, new: str) -> ModuleType:
    """Import a module that has moved, and make its submodules known by their old names, too.

    Raises:
        ImportError: If there is no folder ``tools/``, as beside an installed wheel.
    """
    import pkgutil  # which costs time, and is seldom needed

    place, how = f"tools/{new.replace('.', '/')}", f"put tools/ on the Python path and import {new}"
    if new.startswith(f"{__package__}."):
        place, how = new, "import it from there"
    elif not (TOOLS / new.partition(".")[0]).is_dir():
        raise ImportError(
            f"{old} has moved out of the package: it is {place} in the repository of mmmetaformer, "
            "so use a checkout of it",
            name=old,
        )
    elif str(TOOLS) not in sys.path:
        sys.path.append(str(TOOLS))
    # The frames of the import system do not count, so that this is the line that imports.
    warnings.warn(f"{old} has moved to {place}: {how}", DeprecationWarning, stacklevel=3)
    module = importlib.import_module(new)
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        part = importlib.import_module(f"{new}.{found.name}")
        sys.modules[f"{old}.{found.name}"] = part
    return module


sys.meta_path.append(MovedModules())
