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
class Contender:
    """One way of running a network.

    Attributes:
        implementation: Whose code: one of ``IMPLEMENTATIONS``.
        compiled: Whether it runs under ``torch.compile``.
        channels_last: Whether weights and images have their channels innermost in memory.
        dtype: Name of the dtype: ``'float32'``, or what autocast computes in. Parameters are in
            float32 always.
    """

    implementation: str
    compiled: bool
    channels_last: bool
    dtype: str

    @property
    def label(self) -> str:
        """As on the command line, with the dtype."""
        chosen = zip(_MODIFIERS, (self.compiled, self.channels_last), strict=True)
        return f"{'+'.join([self.implementation, *(m for m, on in chosen if on)])}@{self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


def read_contenders(texts: Sequence[str], dtype: str) -> list[Contender]:
    """Contenders from ``IMPLEMENTATION[+compile][+channels_last][@DTYPE]``.

    Args:
        texts: The command-line arguments.
        dtype: Of those that name none.

    Raises:
        UserError: If one names something unknown, or two are the same.

    Example:
        >>> [c.label for c in read_contenders(['timm', 'fused+compile@bfloat16'], 'float32')]
        ['timm@float32', 'fused+compile@bfloat16']
    """
    contenders = []
    for text in texts:
        names, at, own = text.partition("@")
        implementation, *modifiers = names.split("+")
        _check("implementation", text, [implementation], IMPLEMENTATIONS)
        _check("modifier", text, modifiers, _MODIFIERS)
        _check("dtype", text, [own if at else dtype], DTYPES)
        contenders.append(
            Contender(implementation, *(m in modifiers for m in _MODIFIERS), own if at else dtype)
        )
    twice = [c.label for c in contenders if contenders.count(c) > 1]
    if twice:
        raise UserError(f"{twice[0]} is named twice")
    return contenders


def _check(what: str, text: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"{text!r}: unknown {what} {name!r}, expected one of {', '.join(known)}"
            )
