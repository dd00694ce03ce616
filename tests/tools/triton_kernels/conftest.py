"""The kernels are tested where there is a Triton that they are written for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

try:
    _triton = Version(version("triton"))
except PackageNotFoundError:
    _triton = Version("0")
collect_ignore_glob = ["test_*.py"] if _triton < Version("3.6") else []
