"""What a benchmark compares, as the command line names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmmetaformer.engine.errors import UserError

from .networks import IMPLEMENTATIONS

DTYPES = ("float32", "bfloat16", "float16")
_MODIFIERS = ("compile", "channels_last")


@dataclass(frozen=True)
class Implementation:
    """One way of running a network.

    Attributes:
        name: Whose code: one of ``IMPLEMENTATIONS``.
        compiled: Whether it runs under ``torch.compile``.
        channels_last: Whether weights and images have their channels innermost in memory.
        dtype: Name of the dtype: ``'float32'``, or what autocast computes in. Parameters are in
            float32 always.
    """

    name: str
    compiled: bool = False
    channels_last: bool = False
    dtype: str = "float32"

    @property
    def label(self) -> str:
        """As on the command line, with the dtype."""
        chosen = zip(_MODIFIERS, (self.compiled, self.channels_last), strict=True)
        return f"{'+'.join([self.name, *(m for m, on in chosen if on)])}@{self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's."""
        return getattr(torch, self.dtype)


def read_implementations(texts: Sequence[str], dtype: str) -> list[Implementation]:
    """Implementations from ``NAME[+compile][+channels_last][@DTYPE]``.

    Args:
        texts: The command-line arguments.
        dtype: The dtype of those that name none.

    Raises:
        UserError: If one names something unknown, or two are the same.

    Example:
        >>> [i.label for i in read_implementations(['timm', 'fused+compile@bfloat16'], 'float32')]
        ['timm@float32', 'fused+compile@bfloat16']
    """
    found: list[Implementation] = []
    for text in texts:
        names, at, own = text.partition("@")
        name, *modifiers = names.split("+")
        _check("implementation", text, [name], IMPLEMENTATIONS)
        _check("modifier", text, modifiers, _MODIFIERS)
        _check("dtype", text, [own if at else dtype], DTYPES)
        found.append(
            Implementation(name, *(m in modifiers for m in _MODIFIERS), own if at else dtype)
        )
        if found.count(found[-1]) > 1:
            raise UserError(f"{found[-1].label} is named twice")
    return found


def _check(what: str, text: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"{text!r}: unknown {what} {name!r}, expected one of {', '.join(known)}"
            )
