"""Figures as the bytes of a PNG."""

import io

from matplotlib.figure import Figure

DARK = "#222222"  # of text


def as_png(figure: Figure, *, dpi: int) -> bytes:
    """The figure as PNG; the same data give the same bytes."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()
