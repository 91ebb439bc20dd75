"""Learning curves of one trial, with its phases shaded behind the lines."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PHASE_COLOURS,
    PHASE_NAMES,
    PURPLE,
    VERMILION,
    WIDE,
    auc_axis,
    integer_axis,
    legend_under,
    panels,
    plain_log,
    styled,
)

LineStyle = str | tuple[int, tuple[int, ...]]


def phase_spans(epochs: pd.DataFrame) -> list[tuple[int, int, int]]:
    """(phase, first epoch, last epoch) of each run of epochs in one phase, in order."""
    spans: list[tuple[int, int, int]] = []
    for epoch, phase in zip(epochs["epoch"].astype(int), epochs["phase"].astype(int), strict=True):
        if spans and spans[-1][0] == phase:
            spans[-1] = (phase, spans[-1][1], int(epoch))
        else:
            spans.append((int(phase), int(epoch), int(epoch)))
    return spans


@styled
def learning_curves(epochs: pd.DataFrame, *, title: str) -> Figure:
    """Detection, losses, codebook and schedules of one trial.

    Parameters
    ----------
    epochs
        One trial's rows of `RunResults.epochs`, in the order of epochs.
    """
    figure, (detection, losses, codebook, schedule) = panels(2, 2, (WIDE, 6.8), sharex=True)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    x = epochs["epoch"]
    for axes in (detection, losses, codebook, schedule):
        _draw_phases(axes, epochs)
    detecting: dict[str, tuple[str, str, LineStyle]] = {
        "validation_auc": (BLUE, "AUC", "-"),
        "validation_pauc": (ORANGE, "pAUC", "--"),
        "pseudo_auc": (VERMILION, "pseudo-AUC", "-."),
    }
    judged = [name for name in detecting if epochs[name].notna().any()]
    for name in judged:
        colour, label, style = detecting[name]
        _line(detection, x, epochs[name], colour, label, style)
    detection.axhline(0.5, color=GREY, linewidth=0.9, linestyle=":")
    titles = {
        ("validation_auc", "validation_pauc"): "Detection on validation clips",
        ("pseudo_auc",): "Detection on pseudo-anomalies",
    }
    detection.set_title(titles.get(tuple(judged), "On labels and pseudo-anomalies"), pad=14)
    detection.set(ylabel="mean over machine ids")
    auc_axis(detection, [0.5, *epochs[judged].to_numpy().ravel()])
    legend_under(detection)

    names: dict[str, tuple[str, str, LineStyle]] = {
        "reconstruction_loss": (BLUE, "reconstruction", "-"),
        "commitment_loss": (ORANGE, "commitment", "--"),
        "texture_loss": (PURPLE, "texture", "-"),
        "id_loss": (GREEN, "machine id", "-."),
        "transform_loss": (VERMILION, "transformation", ":"),
    }
    others = [name for name in epochs.columns if name.endswith("_loss") and name not in names]
    for index, name in enumerate(others):  # registered terms
        colour = (GREY, BLUE, ORANGE, GREEN, VERMILION, PURPLE)[index % 6]
        names[name] = (colour, name.removesuffix("_loss").replace("_", " "), (0, (1, 2)))
    for name, (colour, label, style) in names.items():
        positive = epochs[name].where(epochs[name] > 0)
        if positive.notna().any():
            _line(losses, x, positive, colour, label, style)
    losses.set_title("Loss terms, before weighting", pad=14)
    losses.set(ylabel="loss", yscale="log")
    plain_log(losses)
    legend_under(losses, columns=3)

    _line(codebook, x, epochs["perplexity"], BLUE, "perplexity (left)")
    codebook.set_title("Codebook", pad=14)
    codebook.set(xlabel="epoch", ylabel="perplexity (codes)")
    codebook.set_ylim(0, max(1.0, 1.1 * float(epochs["perplexity"].max())))
    share = codebook.twinx()
    _line(share, x, 100 * epochs["dead_code_share"], PURPLE, "dead codes (right)", "--")
    share.set(ylabel="dead codes (%)", ylim=(-3, 103))  # a line at 0 % lies above the axis, not on it
    share.grid(False)
    share.spines["right"].set_visible(True)
    legend_under(codebook, [*codebook.get_lines(), *share.get_lines()])

    _line(schedule, x, epochs["commitment_scale"], ORANGE, "commitment scale")
    relative = epochs["learning_rate"] / max(float(epochs["learning_rate"].max()), 1e-12)
    _line(schedule, x, relative, GREY, "learning rate / its peak", "--")
    schedule.set_title("Schedules", pad=14)
    schedule.set(xlabel="epoch", ylabel="factor (0 … 1)", ylim=(0, 1.08))
    legend_under(schedule)
    for axes in (detection, losses):  # legends separate the panels, so each needs its own tick labels
        axes.tick_params(axis="x", labelbottom=True)
        axes.set_xlabel("epoch")
    integer_axis(schedule)
    return figure


def _line(axes: Axes, x: pd.Series, y: pd.Series, colour: str, label: str, style: LineStyle = "-") -> None:
    axes.plot(x, y, color=colour, label=label, linestyle=style, marker="." if len(x) < 40 else "")


def _draw_phases(axes: Axes, epochs: pd.DataFrame) -> None:
    for phase, first, last in phase_spans(epochs):
        axes.axvspan(first - 0.5, last + 0.5, color=PHASE_COLOURS[phase], zorder=0, linewidth=0)
        axes.annotate(
            PHASE_NAMES[phase],
            ((first + last) / 2, 1.0),
            (0, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="#666666",
        )
