"""Where names in configs become classes.

``MODELS`` is a child of mmengine's root registry. mmengine imports ``<scope>.registry`` when it
meets a name with an unknown scope, and ``locations`` are imported at the first look-up, so
``type='mmmetaformer.PoolFormer'`` builds from any mmdet or mmseg config without
``custom_imports``.

The other way round, our configs name classes of mmdet, mmseg and mmpretrain without a prefix. Where
mmengine takes mmmetaformer for the scope of such a name, as in ``DetInferencer(...,
scope='mmmetaformer')`` and in what a config takes over from ``_base_ = 'mmmetaformer::...'``, the
registries of this module look it up there.
"""

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, getmro, signature
from typing import Any

from mmengine import registry as roots
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import DefaultScope, Registry, init_default_scope

from .stacks import how_to_get

SCOPE = "mmmetaformer"
HOSTS = ("mmdet", "mmseg", "mmpretrain")

# Parts that need mmseg or mmpretrain, which take seconds to import and a detector does without.
_ON_DEMAND = {
    "FFNetHead": "mmmetaformer.heads.ffnet_head",
    "MetaFormerClsHead": "mmmetaformer.heads.metaformer_cls_head",
}


class _Hosted(Registry):
    """Under the scope of this package, looks up in the host packages what is not its own."""

    def get(self, key: str) -> type | None:
        if _scope_name() != SCOPE or not isinstance(key, str) or "." in key:
            return super().get(key)
        self.import_from_location()
        found = None if key in self.module_dict else self._of_host(key)
        return super().get(key) if found is None else found

    def _of_host(self, key: str) -> type | None:
        # A whole model is of one host only; names of what is in it may be of several.
        current = _current_host()
        for host in sorted(HOSTS, key=lambda host: host != current):
            try:
                import_module(f"{host}.registry")
                registry = self.parent.children[host]
                registry.import_from_location()
            except (ImportError, KeyError):
                continue
            if key in registry.module_dict:
                if host != current:
                    init_default_scope(host)
                return registry.module_dict[key]
            if host == current and key in self.parent.module_dict:
                return None  # mmengine's or mmcv's
        return None


def _scope_name() -> str | None:
    scope = DefaultScope.get_current_instance()
    return None if scope is None else scope.scope_name


def _current_host() -> str | None:
    """The host whose names are meant where the scope is this package's: that of the last model with
    one of our backbones if the scope was set for all, as inferencers do, else that around it."""
    scopes = list(DefaultScope._instance_dict.values())
    lasting = [scope for scope in scopes if not scope.instance_name.startswith("overwrite-")]
    if lasting and lasting[-1].scope_name == SCOPE:
        return MODELS.last_host
    return next((s.scope_name for s in reversed(scopes) if s.scope_name in HOSTS), None)


class _Models(_Hosted):
    """Imports what is ``_ON_DEMAND`` when its name is asked for."""

    last_host: str | None = None

    def get(self, key: str) -> type | None:
        if (scope := _scope_name()) in HOSTS:
            self.last_host = scope
        name = key.rpartition(".")[2] if isinstance(key, str) else None
        if name in _ON_DEMAND:
            import_module(_ON_DEMAND[name])
        return super().get(key)


MODELS = _Models(
    "model",
    parent=roots.MODELS,
    scope=SCOPE,
    locations=["mmmetaformer.layers", "mmmetaformer.backbones"],
)

OPTIM_WRAPPER_CONSTRUCTORS = _Hosted(
    "optimizer wrapper constructor",
    parent=roots.OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=["mmmetaformer.engine.layer_decay"],
)

# Those of which this package has nothing itself.
for _root in [root for root in vars(roots).values() if isinstance(root, Registry)]:
    if SCOPE not in _root.children:
        _Hosted(_root.name, parent=_root, scope=SCOPE, locations=[__name__])

# Parts of a block.
TOKEN_MIXERS = Registry("token mixer", scope=SCOPE, locations=["mmmetaformer.mixers"])
CHANNEL_MIXERS = Registry("channel mixer", scope=SCOPE, locations=["mmmetaformer.channel_mixers"])


def build_part(registry: Registry, cfg: Mapping[str, Any], **defaults: Any) -> Any:
    """Build one part of a backbone.

    The registry itself is asked and not mmengine's default scope, so a plain name means the same
    thing under mmdet, under mmseg and outside of both.

    Args:
        registry: One of the registries of this module.
        cfg: ``dict(type=..., **options)``. ``type`` is a registered name, a class, or the dotted
            path of a class in any importable module (``'my_mixers.Shift'``).
        **defaults: Arguments that ``cfg`` may override.

    Raises:
        ValueError: If ``type`` is missing or names nothing; lists the registered names.
        TypeError: If the options do not fit the constructor; names the part.
        ImportError: If the module of a dotted path is there but cannot be imported.
    """
    options = {**defaults, **cfg}
    name = options.pop("type", None)
    options.pop("_scope_", None)  # mmengine's note on inherited dicts
    cls = find_part(registry, name)
    try:
        return cls(**options)
    except TypeError as error:
        raise TypeError(f"{registry.name} {name!r}: {error}") from error


def find_part(registry: Registry, name: Any) -> type:
    """The class behind the ``type`` of a part; see :func:`build_part`."""
    if isinstance(name, type):
        return name
    try:
        cls = registry.get(name)
    except (RuntimeError, TypeError):  # what mmengine raises for unknown and non-string names
        cls = None
    if cls is None and registry is MODELS and isinstance(name, str):
        cls = find_in_openmmlab(name)
    if cls is None:
        # Each class once, under the first of its names.
        names = {cls: name for name, cls in reversed(registry.module_dict.items())}
        known = ", ".join(sorted(names.values()))
        raise ValueError(
            f"unknown {registry.name} type {name!r}: expected one of {known}, a class, or the "
            f"dotted path of a class such as 'my_package.my_module.MyMixer'{_why_not_found(name)}"
        )
    return cls


def find_in_openmmlab(name: str) -> type | None:
    """The class that is registered in mmengine or mmcv under a name, None where there is none."""
    cls = roots.MODELS.get(name)
    if cls is None and find_spec("mmcv") is not None:
        import_module("mmcv.cnn")  # which registers its layers
        cls = roots.MODELS.get(name)
    return cls


def part_takes(registry: Registry, cfg: Mapping[str, Any], argument: str) -> bool:
    """Whether the constructor of a part names an argument, or hands it on to one of its base
    classes that does."""
    for cls in getmro(find_part(registry, cfg.get("type"))):
        constructor = vars(cls).get("__init__")
        if constructor is None:
            continue
        parameters = signature(constructor).parameters
        if argument in parameters:
            return True
        if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
    return False


def with_defaults(registry: Registry, cfg: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict:
    """The config of a part with those of the network's arguments that its constructor takes and
    its own config does not name."""
    taken = {name: value for name, value in defaults.items() if part_takes(registry, cfg, name)}
    return {**taken, **cfg}


def as_cfg(name: str, value: Any) -> dict | None:
    """The config of a part from any of its spellings: a dict, a name, a class, None.

    Raises:
        TypeError: If it is none of them; names the argument.
    """
    return None if value is None else as_required_cfg(name, value)


def as_required_cfg(name: str, value: Any) -> dict:
    """As :func:`as_cfg`, for a part that has to be there."""
    if isinstance(value, LazyObject | LazyAttr):  # a class in a pure-Python config
        value = value.build()
    if isinstance(value, str | type):
        return dict(type=value)
    if isinstance(value, Mapping) and "type" in value:
        cfg = {key: item for key, item in value.items() if key != "_scope_"}
        if isinstance(cfg["type"], LazyObject | LazyAttr):
            cfg["type"] = cfg["type"].build()
        return cfg
    raise TypeError(f"{name} must be a name or a dict with the key 'type', got {value!r}")


def _why_not_found(name: Any) -> str:
    """What is wrong with a dotted path, for the end of a message; raises what its module raises.

    mmengine takes any failure to import a module for a name that does not exist.
    """
    module, _, attribute = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    if not module:
        lacking = find_spec("mmcv") is None
        return f" (mmcv has more: {how_to_get('mmcv')})" * lacking
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a dependency of the module, not the module itself
        return (
            f" (there is no module {module!r} in the current folder {os.getcwd()!r} nor on "
            "Python's path: start from its folder or set PYTHONPATH)"
        )
    return f" (the module {module!r} is there, and has no class {attribute!r})"
