"""Moved to ``tools/tool_support/results.py``."""

from .._moved import forward

forward(__name__, "tool_support.results")
