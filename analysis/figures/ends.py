"""How trials ended, each way apart: running out of memory is not a crash, and over budget is not a failure."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from analysis.style import END_COLOURS, new_figure, styled


@styled
def trial_ends(counts: Mapping[str, int]) -> Figure:
    """A bar for every way a trial can end, also those that never happened."""
    figure = new_figure((6.4, 2.7))
    axes = figure.subplots()
    names = list(counts)
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
    return figure
