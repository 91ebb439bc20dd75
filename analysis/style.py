"""The style of all pictures: Okabe and Ito's colours (safe for colour-blind readers), sizes for laptop and phone."""

import textwrap
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

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
    "cut_off": GREY,
}
END_MARKERS = {
    "completed": "o",
    "pruned": "v",
    "over_budget": "x",
    "out_of_memory": "s",
    "non_finite": "D",
    "crashed": "P",
    "unfinished": "^",
    "cut_off": "<",
}
"""Marker shapes besides colours: a picture must also be readable in grey."""
PHASE_COLOURS = {1: "#E8F1F8", 2: "#FFFFFF", 3: "#F6EFE0"}
PHASE_NAMES = {1: "VQ only", 2: "full loss", 3: "codebook frozen"}

NORMAL_SIZE = (4.8, 3.5)
WIDE = 8.6
"""Inches. Half of the report's width shows a normal picture at full size, a phone at three quarters; larger pictures
would have letters too small there. Wide ones scroll in their own frame on a phone."""
SMALL_FONT = 8.5

RC: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 10,
    "axes.titlesize": 10.5,
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
    """Draws in our style, whatever the reader's own settings are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(RC):
            return draw(*args, **kwargs)

    return drawn


def new_figure(size: tuple[float, float] = NORMAL_SIZE) -> Figure:
    """A figure that is not registered with pyplot, which would keep it alive."""
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
    axes.xaxis.set_major_locator(whole_numbers())
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim((low + high) / 2 - 1, (low + high) / 2 + 1)


def whole_numbers(most: int = 9) -> MaxNLocator:
    """Ticks at whole numbers only, even if there is room for just one."""
    return MaxNLocator(nbins=most, integer=True, min_n_ticks=1)


def auc_axis(axes: Axes, values: Any) -> None:
    """Fits an axis of AUCs to the data: a point at 1 is fully visible, and no tick lies above 1."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = max(0.05 * (high - low), 0.005)
    axes.set_ylim(low - room, high + room)
    axes.set_yticks([tick for tick in axes.get_yticks() if low - room <= tick <= min(1.0, high + room) + 1e-9])
    axes.set_ylim(low - room, high + room)


def last_epoch_label(measure: str) -> str:
    """``validation AUC, last epoch``: what an axis of values shows."""
    return axis_label(f"{measure}, last epoch")


def axis_label(words: str) -> str:
    """The words in lines that fit the length of an axis."""
    return textwrap.fill(words, 34, break_on_hyphens=False)


class Message(Figure):
    """A placeholder that says why there is no picture; a page prints its text instead."""

    title: str
    message: str


def message_figure(title: str, message: str) -> Message:
    """A figure that says why there is no picture, instead of an empty frame."""
    with mpl.rc_context(RC):
        lines = textwrap.wrap(message, 78)
        figure = Message(figsize=(NORMAL_SIZE[0] * 1.25, 0.45 + 0.2 * len(lines)), layout="constrained")
        figure.title, figure.message = title, message
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_title(title)
        axes.text(0.0, 1.0, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=9)
    return figure


def legend_below(figure: Figure, axes: Axes, *, columns: int = 4) -> None:
    """Puts the legend under the axes, where it hides no point."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=SMALL_FONT, columnspacing=1.0)


def legend_under(axes: Axes, handles: Any = None, *, columns: int = 2) -> None:
    """Puts the legend below one of several panels, outside its frame: inside it could hide a line."""
    known = {"handles": handles} if handles is not None else {}
    axes.legend(
        **known, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=SMALL_FONT, borderaxespad=0.2
    )


def plain_log(axes: Axes) -> None:
    """Labels a logarithmic axis with plain numbers (0.02, 0.5, 10), as many as fit."""
    low, high = axes.get_ylim()
    steps: tuple[float, ...] = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def note_below(figure: Figure, text: str, *, width: int = 66) -> None:
    """Puts a wrapped remark under the whole picture."""
    figure.supxlabel("\n".join(textwrap.wrap(text, width)), fontsize=SMALL_FONT, x=0.02, ha="left", color="#555555")
