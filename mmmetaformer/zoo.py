"""Moved to ``tools/model_zoo``."""

from ._moved import forward

forward(__name__, "model_zoo")
