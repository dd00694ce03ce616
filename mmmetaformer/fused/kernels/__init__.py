"""Triton kernels of the fused path's primitives, with the signatures of ``fused/primitives.py``.

They are opt-in. ``ops.py`` has the functions, ``device.py`` the kernels. Importing this package does
not import Triton; importing ``ops`` does, so ask :func:`available` or :func:`require` first::

    from mmmetaformer.fused import kernels

    kernels.require(x)  # says what is wrong where the kernels cannot run
    mean, rstd = kernels.ops().moments(x, 1e-5)

Without a GPU they run in Triton's interpreter, slowly, for tests: set ``TRITON_INTERPRET=1`` before
anything imports Triton.
"""

from .capability import available, ops, require, unavailable_reason

__all__ = ["available", "ops", "require", "unavailable_reason"]
