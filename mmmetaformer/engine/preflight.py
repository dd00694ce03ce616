"""Moved to ``tools/tool_support/preflight.py``."""

from .._moved import forward

forward(__name__, "tool_support.preflight")
