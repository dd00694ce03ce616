"""Decode heads that mmseg does not have. Importing this package imports mmseg."""

from .ffnet_head import FFNetHead

__all__ = ["FFNetHead"]
