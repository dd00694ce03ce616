"""Moved to ``tools/instruments``."""

from ._moved import forward

forward(__name__, "instruments")
