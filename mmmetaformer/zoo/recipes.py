"""Published recipes against merged configs.

``configs/recipes.yml`` maps the name of a recipe to its ``Source``, to ``Settings`` by dotted paths
into the merged config, and to the settings of single ``Models`` by the names of their configs.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..engine.errors import UserError
from ..registry import MODELS, find_part
from .metafiles import read_yaml

FILE = "configs/recipes.yml"
_BACKBONE = "model.backbone."


def read_recipes(root: Path) -> dict[str, dict[str, Any]]:
    """All recipes by name.

    Raises:
        UserError: If the file is not there, or a recipe lacks its source or its settings.
    """
    recipes = read_yaml(root / FILE)
    for name, recipe in recipes.items():
        if not isinstance(recipe, dict) or not recipe.get("Source") or not recipe.get("Settings"):
            raise UserError(f"{FILE}: {name} needs Source and Settings")
    return recipes


def settings_of(recipe: dict[str, Any], model: str) -> dict[str, Any]:
    """All settings of a recipe for the config of a name."""
    return {**recipe["Settings"], **recipe.get("Models", {}).get(model, {})}


def compare(cfg: Config, settings: dict[str, Any]) -> list[str]:
    """The settings in which a config departs from a recipe, in words.

    Args:
        cfg: The merged config.
        settings: The values by their dotted paths. In lists a number is an index, and a name is
            the ``type`` of the one item meant. None stands for what is not there; an argument of
            the backbone that is not there has the default of its class.
    """
    differing = []
    for path, expected in settings.items():
        found = _plain(lookup(cfg, path))
        if found != expected:
            differing.append(f"{path} is {found!r}, published {expected!r}")
    return differing


def lookup(cfg: Config, path: str) -> Any:
    """The value at a dotted path; see :func:`compare`."""
    node: Any = cfg
    for key in path.split("."):
        if isinstance(node, list | tuple):
            node = _item(node, key)
        elif isinstance(node, dict | Config):
            node = node.get(key)
        else:
            node = None
        if node is None:
            break
    if node is None and path.startswith(_BACKBONE):
        return _default(cfg.model.backbone.type, path.removeprefix(_BACKBONE))
    return node


def _item(items: list | tuple, key: str) -> Any:
    if key.isdigit():
        return items[int(key)] if int(key) < len(items) else None
    named = [item for item in items if isinstance(item, dict) and item.get("type") == key]
    return named[0] if len(named) == 1 else None


def _default(kind: str, argument: str) -> Any:
    """The default of an argument, by the class or the nearest of its bases that names it."""
    for cls in find_part(MODELS, kind.removeprefix("mmmetaformer.")).__mro__:
        parameter = inspect.signature(cls.__init__).parameters.get(argument)
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None


def _plain(value: Any) -> Any:
    """Tuples as lists, and without the scopes that mmengine notes down for inherited dicts."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "_scope_"}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
