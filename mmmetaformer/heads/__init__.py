"""Heads that mmseg and mmpretrain do not have, each imported on first use with what it needs."""

from importlib import import_module

_HEADS = {"FFNetHead": "ffnet_head", "MetaFormerClsHead": "metaformer_cls_head"}

__all__ = ["FFNetHead", "MetaFormerClsHead"]


def __getattr__(name: str) -> object:
    if name in _HEADS:
        return getattr(import_module(f"{__name__}.{_HEADS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
