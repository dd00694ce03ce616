"""Moved to ``tools/benchmarking``."""

from ._moved import forward

forward(__name__, "benchmarking")
