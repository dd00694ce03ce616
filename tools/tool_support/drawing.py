"""What all pictures share."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

_DPI = 100
# Okabe and Ito's colours, which can be told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def as_png(figure: Figure) -> bytes:
    """A PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.15)
    return file.getvalue()


def line_style(number: int) -> tuple[str, str]:
    """Colour and marker of the line of that number."""
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
