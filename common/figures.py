"""How all figures look and are written: for print, for any colour vision, same data giving the same bytes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from common.errors import InputError
from common.files import atomic_path

# Okabe and Ito's palette, distinguishable with any colour vision; shapes and hatches repeat it for grey print.
BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE, YELLOW, BLACK, GREY = (
    "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442", "#000000", "#8C8C8C",
)  # fmt: skip

WIDTH = 8.0
"""Inches of a figure across the page."""
DPI = 300
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "figure.titlesize": 11,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    # Real numbers at the ticks: "+9.99e-1" beside an axis is easily missed.
    "axes.formatter.useoffset": False,
    "hatch.linewidth": 0.6,
    # Names of types and parameters are text; two dollar signs in one are no formula.
    "text.parse_math": False,
    # TrueType stays text in the PDF; publishers refuse matplotlib's default.
    "pdf.fonttype": 42,
}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    # A user's matplotlibrc is ignored: its fonts may lack letters, its LaTeX may be missing.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


styled = _style()
"""Decorator of functions that draw."""


@styled
def save(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of its suffix.

    Raises:
        InputError: If it cannot be written there.
    """
    # It logs hundreds of lines about the fonts of a PDF.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    # Dates and versions of the tool would differ from one day and machine to the next.
    metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=DPI, metadata=metadata)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
