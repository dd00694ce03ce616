"""Moved to ``tools/tool_support/launch.py``."""

from .._moved import forward

forward(__name__, "tool_support.launch")
