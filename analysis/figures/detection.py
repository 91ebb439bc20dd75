"""How well the result of a search detects, beside what trains no network: AUCs with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.style import BLACK, BLUE, GREY, NORMAL_SIZE, message_figure, new_figure, note_below, styled


@dataclass(frozen=True)
class Detected:
    """One row of the figure."""

    name: str
    auc: float
    interval: tuple[float, float] | None = None
    """95 % interval, where it is known."""
    ours: bool = False
    """Whether the search found it."""


@styled
def detection_overview(rows: Sequence[Detected], *, clips: str) -> Figure:
    """A point for each row, the highest AUC on top, with its interval.

    Parameters
    ----------
    clips
        The clips that judged, for the note below; may be empty.
    """
    title = "Detection on held-out clips"
    if not rows:
        return message_figure(title, "No held-out clip has been scored.")
    ordered = sorted(rows, key=lambda row: -row.auc)
    figure = new_figure((NORMAL_SIZE[0], max(2.4, 1.6 + 0.36 * len(ordered))))
    axes = figure.subplots()
    for place, row in enumerate(ordered):
        colour = BLUE if row.ours else GREY
        if row.interval is not None:
            axes.plot(row.interval, (place, place), color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot(row.auc, place, "o" if row.ours else "D", color=colour, markersize=8 if row.ours else 6)
        end = row.auc if row.interval is None else row.interval[1]
        axes.annotate(f"{row.auc:.3f}", (end, place), (7, 0), textcoords="offset points", va="center")
    axes.axvline(0.5, color=BLACK, linewidth=0.9, linestyle=":")
    low = min(0.5, *(row.auc if row.interval is None else row.interval[0] for row in ordered))
    axes.set(title=title, xlabel="AUC (0.5 is guessing, 1 is perfect)", xlim=(low - 0.02, 1.09))
    axes.set_xticks([tick for tick in axes.get_xticks() if low - 0.02 <= tick <= 1.0])
    axes.set_xlim(low - 0.02, 1.09)
    axes.set_yticks(range(len(ordered)), [row.name for row in ordered])
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    note_below(figure, f"Lines: 95 % intervals. Grey: trains no network.{f' {clips}.' if clips else ''}")
    return figure
