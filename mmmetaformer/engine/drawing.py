"""Moved to ``tools/tool_support/drawing.py``."""

from .._moved import forward

forward(__name__, "tool_support.drawing")
