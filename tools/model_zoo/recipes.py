"""Published recipes against merged configs.

``configs/recipes.yml`` maps the name of a recipe to its ``Source``, to ``Settings`` by dotted paths
into the merged config, and to the settings of single ``Models`` by the names of their configs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmmetaformer.engine.errors import UserError
from mmmetaformer.registry import MODELS, find_part
from mmmetaformer.variants import FAMILIES, find_variant

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


def count_values(settings: Any) -> int:
    """How many single values settings have; a list of numbers or names is one."""
    if isinstance(settings, dict):
        return sum(map(count_values, settings.values()))
    return sum(map(count_values, settings)) if _is_list_of_parts(settings) else 1


def compare(cfg: Config, settings: dict[str, Any]) -> list[str]:
    """The settings in which a config departs from a recipe, in words.

    Args:
        cfg: The merged config.
        settings: The values by their dotted paths. In lists a number is an index, and a name is
            the ``type`` of the one item meant; ``*`` stands for all items and gives a list. None
            stands for what is not there; an argument of the backbone that is not there is that of
            its arch or has the default of its class.
    """
    return [
        difference
        for path, expected in settings.items()
        for difference in _differences(path, _plain(lookup(cfg, path)), expected)
    ]


def _differences(path: str, found: Any, expected: Any) -> Iterator[str]:
    """What of a value is not as expected, each by its own path."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in dict.fromkeys((*expected, *found)):
            yield from _differences(f"{path}.{key}", found.get(key), expected.get(key))
    elif _is_list_of_parts(found) and _is_list_of_parts(expected) and len(found) == len(expected):
        for index, (item, other) in enumerate(zip(found, expected, strict=True)):
            yield from _differences(f"{path}.{index}", item, other)
    elif found != expected:
        yield f"{path} is {found!r}, published {expected!r}"


def _is_list_of_parts(value: Any) -> bool:
    parts = isinstance(value, list) and all(isinstance(item, dict | list) for item in value)
    return parts and len(value) > 0


def lookup(cfg: Config, path: str) -> Any:
    """The value at a dotted path; see :func:`compare`."""
    found = _walk(cfg, path.split("."))
    if found is None and path.startswith(_BACKBONE):
        return _default(cfg.model.backbone, path.removeprefix(_BACKBONE))
    return found


def _walk(node: Any, keys: list[str]) -> Any:
    for position, key in enumerate(keys):
        if isinstance(node, list | tuple):
            if key == "*":
                return [_walk(item, keys[position + 1 :]) for item in node]
            node = _item(node, key)
        elif isinstance(node, dict | Config):
            node = node.get(key)
        else:
            return None
    return node


def _item(items: list | tuple, key: str) -> Any:
    if key.isdigit():
        return items[int(key)] if int(key) < len(items) else None
    named = [item for item in items if isinstance(item, dict) and item.get("type") == key]
    return named[0] if len(named) == 1 else None


def _default(backbone: dict[str, Any], argument: str) -> Any:
    """What a backbone takes for an argument that its config leaves out: what its arch says, else
    the default of its class or of the nearest base that names it."""
    cls = find_part(MODELS, backbone["type"].removeprefix("mmmetaformer."))
    arch = backbone.get("arch")
    if isinstance(arch, str):
        row = find_variant(arch, cls.family)
        settings = {**FAMILIES[row["family"]]["settings"], **row}
        if argument in settings:
            return settings[argument]
    for base in cls.__mro__:
        parameter = inspect.signature(base.__init__).parameters.get(argument)
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None


def _plain(value: Any) -> Any:
    """Tuples as lists, and without the scopes that mmengine notes down for inherited dicts."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "_scope_"}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
