"""How every picture looks: Okabe and Ito's colours (safe for colour-blind readers), sizes for a laptop and a phone."""

import textwrap
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

P = ParamSpec("P")

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#8A8A8A"
CYCLE = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, BLACK, GREY)
"""Okabe and Ito (2008), without yellow: it is too light for lines on white."""

END_COLOURS = {
    "completed": GREEN,
    "pruned": SKY,
    "over_budget": ORANGE,
    "out_of_memory": VERMILION,
    "non_finite": PURPLE,
    "crashed": BLACK,
    "unfinished": GREY,
}
END_MARKERS = {
    "completed": "o",
    "pruned": "v",
    "over_budget": "x",
    "out_of_memory": "s",
    "non_finite": "D",
    "crashed": "P",
    "unfinished": "^",
}
"""Shapes beside colours: a picture must also be read in grey."""
PHASE_COLOURS = {1: "#E8F1F8", 2: "#FFFFFF", 3: "#F6EFE0"}
PHASE_NAMES = {1: "VQ only", 2: "full loss", 3: "codebook frozen"}

NORMAL_SIZE = (6.4, 3.9)
WIDE_SIZE = (8.6, 4.2)
"""Inches at 100 dpi; the report lets wide pictures scroll in their own frame on a phone."""

RC: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 110,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": cycler(color=list(CYCLE)),
    "font.family": ["DejaVu Sans", "sans-serif"],
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws under our style, whatever the reader's own settings are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(RC):
            return draw(*args, **kwargs)

    return drawn


def new_figure(size: tuple[float, float] = NORMAL_SIZE) -> Figure:
    """A figure of its own: not registered with pyplot, so that nothing keeps it alive."""
    return Figure(figsize=size, layout="constrained")


def panels(
    rows: int, columns: int, size: tuple[float, float], *, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure and its axes in reading order."""
    figure = new_figure(size)
    grid = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    return figure, list(np.asarray(grid).flat)


def integer_axis(axes: Axes) -> None:
    """Whole numbers on the axis of trials or epochs, and room around a single one."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim((low + high) / 2 - 1, (low + high) / 2 + 1)


def message_figure(title: str, message: str) -> Figure:
    """A picture that says why there is none: never an empty frame."""
    with mpl.rc_context(RC):
        figure = new_figure((6.4, 1.6))
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_title(title)
        axes.text(0.0, 0.5, message, transform=axes.transAxes, va="center", wrap=True)
    return figure


def legend_below(figure: Figure, axes: Axes, *, columns: int = 4) -> None:
    """A legend under the axes, where it can hide no point."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5)


def with_note(label: str, text: str, *, width: int = 62) -> str:
    """An axis label with a remark below it, wrapped."""
    return "\n".join([label, *textwrap.wrap(text, width)])
