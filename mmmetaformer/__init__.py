"""MetaFormer backbones for detection and segmentation with OpenMMLab.

Importing this package is cheap and imports neither mmdet nor mmseg: every public name below is
resolved on first use. The dotted form ``type='mmmetaformer.PoolFormer'`` in a config resolves
through :mod:`mmmetaformer.registry`, which mmengine imports by itself.
"""

from importlib import import_module

from . import _moved, _scopes  # noqa: F401  (old import paths, scopes of configs)
from .version import __version__

_PUBLIC = {
    "CHANNEL_MIXERS": "registry",
    "MODELS": "registry",
    "TOKEN_MIXERS": "registry",
    "CAFormer": "backbones",
    "ConvFormer": "backbones",
    "ConvMixer": "backbones",
    "FFNet": "backbones",
    "IdentityFormer": "backbones",
    "IsotropicMetaFormer": "backbones",
    "MetaFormer": "backbones",
    "MetaMixer": "metamixer",
    "MlpMixer": "backbones",
    "PoolFormer": "backbones",
    "PoolFormerV2": "backbones",
    "RandFormer": "backbones",
    "convert_classifier_state_dict": "weights",
    "convert_state_dict": "weights",
    "create_backbone": "backbones",
    "data_preprocessor_for": "weights",
    "export_state_dict": "weights",
    "find_checkpoint": "weights",
    "get_config": "configs",
    "list_archs": "variants",
    "list_checkpoints": "weights",
    "switch_to_deploy": "layers",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    except ModuleNotFoundError as error:
        from .stacks import explain_missing

        message = explain_missing(error, f"{__name__}.{name}")
        if message is None:
            raise
        raise ImportError(message, name=error.name) from error


def __dir__() -> list[str]:
    return sorted(__all__)
