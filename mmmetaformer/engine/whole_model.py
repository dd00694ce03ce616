"""Moved to ``tools/tool_support/whole_model.py``."""

from .._moved import forward

forward(__name__, "tool_support.whole_model")
