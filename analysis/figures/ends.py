"""How trials ended, one bar per ending: running out of memory is not a crash, and over budget is not a failure."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from analysis.results import CUT_OFF
from analysis.style import END_COLOURS, NORMAL_SIZE, new_figure, styled, whole_numbers


@styled
def trial_ends(counts: Mapping[str, int]) -> Figure:
    """Draws a bar for every way a trial can end, even those that never happened; cut off only if some were."""
    figure = new_figure((NORMAL_SIZE[0], 2.7))
    axes = figure.subplots()
    names = [name for name, count in counts.items() if count or name != CUT_OFF]
    bars = axes.barh(
        [name.replace("_", " ") for name in names],
        [counts[name] for name in names],
        color=[END_COLOURS[name] for name in names],
    )
    axes.bar_label(bars, padding=4)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title="How trials ended", xlabel="trials")
    axes.margins(x=0.1)
    axes.set_xlim(0, max(1.0, 1.12 * max(counts.values(), default=0)))
    axes.xaxis.set_major_locator(whole_numbers(6))
    return figure
