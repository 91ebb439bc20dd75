"""Parallel coordinates: one line per trial through all its parameters, coloured by its value."""

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.results import PARAM
from analysis.style import SMALL_FONT, WIDE, last_epoch_label, message_figure, new_figure, styled
from trainable.config import Objective

MOST_AXES = 12
BEST_SHARE, MOST_BEST = 0.1, 20
"""Trials drawn thick: the best tenth, but no more than a reader can distinguish."""
VALUE_COLOURS = mpl.colors.LinearSegmentedColormap.from_list("value", ["#E0A458", "#5E8C6A", "#00204D"])
"""From low to high values; the light end is dark enough for a thin line on white."""
APART = 0.02
"""How far trials are moved from their places, at most, where each is to be seen."""
ALL_SEEN = 30
"""Up to so many trials each line is opaque; of more, the lines thin out so that the best stay visible."""


def unit_positions(
    values: pd.Series, distribution: BaseDistribution | None
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Position of each value on an axis from 0 to 1 (NaN if a trial has none), and the axis's ticks.

    The range is the distribution's if it is known, else that of the values; logarithmic if the distribution is.
    """
    numeric = pd.to_numeric(values, errors="coerce") if values.dtype != bool else pd.Series(np.nan, values.index)
    categorical = isinstance(distribution, CategoricalDistribution) or (
        distribution is None and bool((numeric.isna() & values.notna()).any())
    )
    if categorical:
        seen = list(dict.fromkeys(str(value) for value in values.dropna()))
        choices = [str(choice) for choice in getattr(distribution, "choices", ())] or sorted(seen)
        last = max(len(choices) - 1, 1)
        places = {choice: index / last for index, choice in enumerate(choices)}
        positions = np.array([places.get(str(v), np.nan) if pd.notna(v) else np.nan for v in values])
        return positions, [(place, choice) for choice, place in places.items()]
    low, high, log = float(numeric.min()), float(numeric.max()), False
    if isinstance(distribution, FloatDistribution | IntDistribution):
        low, high, log = float(distribution.low), float(distribution.high), distribution.log
    scale = np.log if log else np.asarray
    span = float(scale(high) - scale(low)) or 1.0
    positions = np.asarray((scale(numeric.to_numpy(dtype=float)) - scale(low)) / span, dtype=float)
    if high <= low:
        return positions, [(0.0, f"{low:.4g}")]
    middle, place = float(np.sqrt(low * high)) if log else (low + high) / 2, 0.5
    whole = isinstance(distribution, IntDistribution) or (
        distribution is None and bool((numeric.dropna() % 1 == 0).all())
    )
    if whole:
        # A tick at the whole number nearest the middle: no trial can have 22.6 codes.
        middle = float(round(middle))
        place = float((scale(middle) - scale(low)) / span)
        if not 0.1 < place < 0.9:
            return positions, [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]
    return positions, [(0.0, f"{low:.4g}"), (place, f"{middle:.{4 if whole else 3}g}"), (1.0, f"{high:.4g}")]


@styled
def parallel_coordinates(
    trials: pd.DataFrame,
    distributions: dict[str, BaseDistribution],
    *,
    order: list[str] | None = None,
    measure: str = Objective.LABELS.measure,
) -> Figure:
    """All trials with a value; the best tenth, at most twenty, are drawn last and thick, the others thin.

    Parameters
    ----------
    order
        Parameters from left to right, the most important first; at most twelve are drawn.
    measure
        What a trial's value is called.
    """
    title = "Which parameters the trials had"
    scored = trials.dropna(subset=["final_auc"]).sort_values("final_auc")
    names = [str(column).removeprefix(PARAM) for column in trials.columns if str(column).startswith(PARAM)]
    names = [*[name for name in order or [] if name in names], *[name for name in names if name not in (order or [])]]
    names = [name for name in names if len(scored) and scored[PARAM + name].notna().any()][:MOST_AXES]
    if not names:
        return message_figure(title, "No trial with searched parameters has finished an epoch yet.")
    figure = new_figure((max(WIDE, 1.05 * (len(names) + 1)), 4.4))
    axes = figure.subplots()
    columns, all_ticks = zip(
        *(unit_positions(scored[PARAM + name], distributions.get(name)) for name in names), strict=True
    )
    grid = np.column_stack(columns)
    if len(scored) <= ALL_SEEN:  # trials that share a choice lie beside each other, not on each other
        grid += np.linspace(-APART, APART, len(scored))[:, None]
    auc = scored["final_auc"].to_numpy()
    low, high = float(auc.min()), float(auc.max())
    if high - low < 0.01:  # all AUCs equal: widen the scale so that they look equal and the ticks are readable
        low, high = max(0.0, low - 0.01), min(1.0, high + 0.01)
    norm = mpl.colors.Normalize(low, high)
    # A trial without a conditional parameter has a gap there: its line is drawn in pieces.
    segments, shades = _segments(grid, auc)
    thick = max(1, min(MOST_BEST, round(BEST_SHARE * len(auc))))
    top = float(np.sort(auc)[-thick])
    best = shades >= top
    if best.sum() > 2 * MOST_BEST * len(names):  # many ties at the top
        best = np.zeros_like(best)
    faint = float(np.clip(ALL_SEEN / len(auc), 0.08, 0.9))
    axes.add_collection(
        LineCollection(
            segments,
            cmap=VALUE_COLOURS,
            norm=norm,
            array=shades,
            linewidths=np.where(best, 2.6, 1.2 if len(auc) <= ALL_SEEN else 0.8),
            alpha=np.where(best, 0.95, faint),
            rasterized=len(scored) > 60,
        )
    )
    axes.set(xlim=(-0.3, len(names) - 0.55), ylim=(-0.06, 1.06), title=title)
    axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=9)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    for index, ticks in enumerate(all_ticks):
        axes.axvline(index, color="#999999", linewidth=0.9, zorder=1)
        for place, text in ticks:
            axes.annotate(
                text,
                (index, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL_FONT,
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
            )
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(norm, VALUE_COLOURS), ax=axes, label=last_epoch_label(measure), pad=0.01, format="%.3f"
    )
    bar.locator = mpl.ticker.MaxNLocator(6)
    bar.update_ticks()
    return figure


def _segments(grid: np.ndarray, auc: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    segments, shades = [], []
    for row, value in zip(grid, auc, strict=True):
        there = np.isfinite(row)
        breaks = np.flatnonzero(np.diff(there.astype(int))) + 1
        for run in np.split(np.arange(len(row)), breaks):
            if there[run[0]]:
                piece = np.column_stack([run, row[run]]).astype(float)
                if len(piece) == 1:  # a line needs two ends
                    piece = piece.repeat(2, axis=0) + np.array([[-0.08, 0.0], [0.08, 0.0]])
                segments.append(piece)
                shades.append(value)
    return segments, np.array(shades)
