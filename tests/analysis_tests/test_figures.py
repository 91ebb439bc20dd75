"""Pictures: what they compute is checked by number, what they draw by its labels and by drawing it."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.figures.anomaly_codes import anomaly_codes, code_contrast
from analysis.figures.codebook import codebook_usage, perplexity, usage_shares
from analysis.figures.curves import learning_curves, phase_spans
from analysis.figures.densities import density_comparison
from analysis.figures.ends import trial_ends
from analysis.figures.families import family_aucs
from analysis.figures.importance import importance_bars
from analysis.figures.infeasible import infeasible_over_time, infeasible_share, infeasible_text
from analysis.figures.memory import memory_by_plan, predicted_against_measured
from analysis.figures.parallel import parallel_coordinates, unit_positions
from analysis.figures.pareto import auc_against_memory, auc_against_time, memory_against_time
from analysis.figures.progress import all_curves, search_progress
from analysis.figures.roc import roc_curves
from analysis.figures.rungs import asha_rungs
from analysis.figures.scores import score_histograms
from analysis.figures.surprise import spectrogram_with_surprise, surprise_map
from analysis.front import memory_cost
from analysis.importance import importances
from analysis.results import RunResults, load_run
from analysis.style import Message
from tests.analysis_tests.synthetic import BUDGET_BYTES, DENSITY, MAX_EPOCHS, make_run
from trainable.model.geometry import Geometry
from trainable.scoring.metrics import auc
from trainable.units import GIB

RUN_FIGURES: dict[str, Callable[[RunResults], Figure]] = {
    "progress": lambda run: search_progress(run.trials),
    "curves": lambda run: all_curves(run.epochs, run.trials, highlight=run.best_number),
    "ends": lambda run: trial_ends(run.end_counts()),
    "rungs": lambda run: asha_rungs(run.trials, MAX_EPOCHS),
    "importance": lambda run: importance_bars(importances(run)),
    "parallel": lambda run: parallel_coordinates(run.trials, run.distributions),
    "memory front": lambda run: auc_against_memory(run.trials, budget_bytes=BUDGET_BYTES),
    "time front": lambda run: auc_against_time(run.trials),
    "front of three": lambda run: memory_against_time(run.trials),
    "predicted": lambda run: predicted_against_measured(run.trials, budget_bytes=BUDGET_BYTES),
    "plans": lambda run: memory_by_plan(run.trials, budget_bytes=BUDGET_BYTES),
    "infeasible": lambda run: infeasible_over_time(run.trials, budget_text="2.00 GiB"),
}
"""Every picture that a run's tables alone make."""


def drawn(figure: Figure) -> str:
    """The picture as SVG text: drawing it finds what building it did not."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def texts(figure: Figure) -> str:
    """Every word on the picture."""
    return " | ".join(text.get_text() for text in figure.findobj(Text) if text.get_text())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", RUN_FIGURES)
def test_pictures_of_a_run_have_titles_and_axis_labels(name: str, synthetic_run: RunResults) -> None:
    figure = RUN_FIGURES[name](synthetic_run)
    assert len(drawn(figure)) > 2000
    main = figure.axes[0]
    assert main.get_title(loc="left") or main.get_title()
    assert main.get_xlabel() or name == "parallel"
    assert main.get_ylabel() or name in ("parallel", "importance", "ends")


@pytest.mark.parametrize("name", RUN_FIGURES)
def test_pictures_of_a_run_in_which_nothing_trained(name: str, idle_run: RunResults) -> None:
    figure = RUN_FIGURES[name](idle_run)
    assert len(drawn(figure)) > 500
    assert texts(figure)  # a picture that has nothing to show says so


@pytest.fixture(scope="module")
def idle_run(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    """Eight proposals, none of which has finished an epoch."""
    with patch("os.fsync"):
        path = make_run(tmp_path_factory.mktemp("idle") / "run", trials=8, with_study=False)
    for file in path.glob("trials/*/epochs.jsonl"):
        file.unlink()
    for number in range(7):
        (path / "trials" / f"{number:05d}" / "end.json").unlink()
    return load_run(path)


def test_a_run_on_a_cpu_says_that_nothing_was_measured(tmp_path: Path) -> None:
    with patch("os.fsync"):
        run = load_run(make_run(tmp_path / "run", trials=12, on_gpu=False, with_study=False))
    assert "Nothing was measured" in texts(predicted_against_measured(run.trials, budget_bytes=None))
    assert isinstance(predicted_against_measured(run.trials, budget_bytes=None), Message)
    assert memory_cost(run.trials)[1] == "predicted peak"
    for figure in (auc_against_memory(run.trials, budget_bytes=None), memory_against_time(run.trials)):
        assert "predicted peak" in texts(figure)


def test_a_run_on_a_gpu_is_drawn_by_what_was_measured(synthetic_run: RunResults) -> None:
    trials = synthetic_run.trials
    cost, how = memory_cost(trials)
    assert how == "measured peak"
    assert cost.isna().sum() == 5  # over budget: never started, nothing measured
    for figure in (auc_against_memory(trials, budget_bytes=None), memory_against_time(trials)):
        assert "measured peak" in texts(figure)


def test_the_progress_line_never_falls(synthetic_run: RunResults) -> None:
    axes = search_progress(synthetic_run.trials).axes[0]
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.get_lines()}
    assert (np.diff(lines["best completed"]) >= 0).all()
    assert lines["best completed"][-1] == synthetic_run.ranked["final_auc"].iloc[0]
    assert (np.diff(lines["highest so far"]) >= 0).all()
    points = sum(len(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection))
    assert points == synthetic_run.trials["final_auc"].notna().sum()


def test_before_a_trial_has_completed_the_highest_is_called_so() -> None:
    trials = pd.DataFrame(
        {"end": ["pruned", "crashed", "unfinished", "pruned"], "final_auc": [0.6, 0.9, 0.7, 0.65]}, index=range(4)
    )
    lines = {
        str(line.get_label()): np.asarray(line.get_ydata()) for line in search_progress(trials).axes[0].get_lines()
    }
    assert "best completed" not in lines
    assert lines["highest so far"].tolist() == [0.6, 0.7, 0.7]  # one that crashed does not count


def test_the_infeasible_share_by_hand() -> None:
    trials = pd.DataFrame(
        {"end": ["completed", "pruned", "over_budget", "pruned"], "draws": [1.0, 4.0, 10.0, 5.0]}, index=range(4)
    )
    # Rejected 0 of 1, 3 of 4, 10 of 10, 4 of 5.
    assert infeasible_share(trials, 2).tolist() == pytest.approx([0.0, 3 / 5, 13 / 14, 14 / 15])
    assert infeasible_text(trials, budget_text="2 GiB").startswith("Of 20 candidates that the sampler tried, 17 (85%)")
    unknown = trials.assign(draws=np.nan)
    assert infeasible_share(unknown, 4).tolist()[-1] == 0.25
    assert "No budget was set" in texts(infeasible_over_time(trials, budget_text="none"))


def test_positions_on_the_parallel_axes() -> None:
    values = pd.Series([32.0, 128.0, 512.0, np.nan])
    positions, ticks = unit_positions(values, IntDistribution(32, 512, log=True))
    assert positions[:3] == pytest.approx([0.0, 0.5, 1.0])
    assert np.isnan(positions[3])
    assert [text for _, text in ticks] == ["32", "128", "512"]
    assert [place for place, _ in ticks] == pytest.approx([0.0, 0.5, 1.0])
    positions, _ = unit_positions(pd.Series([0.0, 0.25]), FloatDistribution(0.0, 1.0))
    assert positions == pytest.approx([0.0, 0.25])
    positions, ticks = unit_positions(pd.Series([64, 16]), CategoricalDistribution((16, 32, 64)))
    assert positions.tolist() == [1.0, 0.0]
    assert [text for _, text in ticks] == ["16", "32", "64"]


def test_positions_without_a_known_range_are_those_seen() -> None:
    positions, _ = unit_positions(pd.Series([2, 4, 3]), None)
    assert positions == pytest.approx([0.0, 1.0, 0.5])
    positions, ticks = unit_positions(pd.Series(["b", "a"]), None)
    assert positions.tolist() == [1.0, 0.0]
    assert [text for _, text in ticks] == ["a", "b"]


def test_whole_numbers_have_ticks_at_whole_numbers() -> None:
    """The number of codes nearest to a geometric middle of 22.6 is marked, where it lies."""
    _, ticks = unit_positions(pd.Series([16, 32]), IntDistribution(16, 32, log=True))
    assert [text for _, text in ticks] == ["16", "23", "32"]
    assert ticks[1][0] == pytest.approx(np.log2(23 / 16))
    _, ticks = unit_positions(pd.Series([0, 1]), IntDistribution(0, 1))
    assert [text for _, text in ticks] == ["0", "1"]


def test_of_many_trials_twenty_are_thick() -> None:
    trials = pd.DataFrame(
        {"params_a": np.linspace(0, 1, 500), "params_b": np.linspace(1, 0, 500), "final_auc": np.linspace(0.5, 1, 500)}
    )
    (lines,) = parallel_coordinates(trials, {}).axes[0].collections
    widths = np.asarray(lines.get_linewidths())
    assert (widths > 1).sum() == 20
    assert np.unique(np.asarray(lines.get_alpha())[widths < 1]) == pytest.approx([0.08])


def test_of_few_trials_every_one_is_seen() -> None:
    trials = pd.DataFrame(
        {"params_a": [1.0] * 14, "params_b": np.linspace(1, 0, 14), "final_auc": np.linspace(0.5, 1, 14)}
    )
    (lines,) = parallel_coordinates(trials, {}).axes[0].collections
    assert isinstance(lines, LineCollection)
    assert np.asarray(lines.get_alpha()).min() >= 0.9
    assert np.asarray(lines.get_linewidths()).min() >= 1.0
    assert len({float(segment[0, 1]) for segment in lines.get_segments()}) == 14  # apart, though of one value
    red, green, blue, _ = lines.cmap(0.0)
    assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75  # dark enough on white


def test_equal_aucs_have_a_scale_that_can_be_read() -> None:
    trials = pd.DataFrame({"params_a": [1.0, 2.0], "final_auc": [1.0, 1.0]})
    figure = parallel_coordinates(trials, {})
    drawn(figure)
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert all(0.0 <= float(label) <= 1.0 for label in labels)
    assert not figure.axes[1].yaxis.get_offset_text().get_text()


def test_the_front_is_of_completed_trials() -> None:
    trials = pd.DataFrame(
        {
            "end": ["completed", "pruned", "completed"],
            "final_auc": [0.8, 0.95, 0.9],
            "epoch_seconds": [2.0, 1.0, 3.0],
            "peak_bytes": 0,
            "predicted_bytes": 600 * 2**20,
        }
    )
    axes = auc_against_time(trials).axes[0]
    (front,) = [line for line in axes.get_lines() if "front" in str(line.get_label())]
    assert np.asarray(front.get_ydata()).tolist() == [0.8, 0.9]
    assert front.get_label() == "front (completed)"
    stopped = auc_against_time(trials.assign(end="pruned")).axes[0]
    assert [line for line in stopped.get_lines() if line.get_label() == "front (none completed yet)"]


def test_costs_that_lie_close_together_fill_the_axis() -> None:
    trials = pd.DataFrame(
        {
            "end": "completed",
            "final_auc": [0.8, 1.0],
            "peak_bytes": 0,
            "predicted_bytes": [604 * 2**20, 605 * 2**20],
        }
    )
    axes = auc_against_memory(trials, budget_bytes=606 * 2**20).axes[0]
    assert axes.get_xlabel().endswith("(MiB)")
    low, high = axes.get_xlim()
    assert 580 < low < 604
    assert 606 < high < 630
    assert max(axes.get_yticks()) <= 1.0


def test_trials_and_epochs_have_whole_numbers_also_where_there_is_one() -> None:
    trials = pd.DataFrame({"end": ["completed"], "final_auc": [1.0]}, index=[0])
    figure = search_progress(trials)
    drawn(figure)
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


def test_predictions_are_of_what_was_measured_where_that_was_kept() -> None:
    """The allocator's own prediction beside its peak; the whole process's only where a run has nothing else."""
    trials = pd.DataFrame(
        {"peak_bytes": [GIB], "predicted_bytes": [2 * GIB], "predicted_allocated_bytes": [GIB], "driver_bytes": [0]}
    )
    assert "median error +0.0%" in texts(predicted_against_measured(trials, budget_bytes=None))
    trials["predicted_allocated_bytes"] = 0
    words = texts(predicted_against_measured(trials, budget_bytes=None))
    assert "median error -50.0%" in words
    assert "with CUDA's own share" in words


def test_the_drivers_count_is_drawn_against_the_whole_prediction_where_it_told() -> None:
    trials = pd.DataFrame(
        {
            "peak_bytes": [2 * GIB, 2 * GIB],
            "predicted_bytes": [4 * GIB, 4 * GIB],
            "predicted_allocated_bytes": [2 * GIB, 2 * GIB],
            "driver_bytes": [0, 3 * GIB],
        }
    )
    (points,) = [
        each
        for each in predicted_against_measured(trials, budget_bytes=None).axes[0].collections
        if each.get_label() == "whole process, by the driver"
    ]
    assert np.asarray(points.get_offsets()).tolist() == [[4.0, 3.0]]


def test_importances_are_drawn_in_their_order(synthetic_run: RunResults) -> None:
    found = importances(synthetic_run)
    axes = importance_bars(found).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found.shares)
    assert "PED-ANOVA" in axes.get_xlabel()


def test_rungs_are_the_bars(synthetic_run: RunResults) -> None:
    axes = asha_rungs(synthetic_run.trials, MAX_EPOCHS).axes[0]
    centres = sorted(round(bar.get_x() + bar.get_width() / 2) for bar in axes.patches)
    assert centres == [1, 3, 9]
    assert "ASHA saved" in axes.get_title(loc="left")


def test_phases_are_the_spans(synthetic_run: RunResults) -> None:
    epochs = synthetic_run.epochs[synthetic_run.epochs["number"] == synthetic_run.best_number]
    assert phase_spans(epochs) == [(1, 1, 5), (2, 6, 22), (3, 23, 27)]
    figure = learning_curves(epochs, title="Trial")
    assert len(figure.axes) == 5  # four panels, one with a second scale
    assert "codebook frozen" in texts(figure)
    assert len(drawn(figure)) > 2000


def test_a_registered_loss_term_is_a_column_and_a_line(synthetic_run: RunResults) -> None:
    number = synthetic_run.best_number
    assert number is not None
    record = synthetic_run.records[number]
    told = [replace(report, extra_losses={"low_rank": 0.5 / report.epoch}) for report in record.epochs]
    run = replace(synthetic_run, records={**synthetic_run.records, number: replace(record, epochs=told)})
    assert run.epochs_of(number)["low_rank_loss"].iloc[1] == 0.25
    assert run.epochs[run.epochs["number"] != number]["low_rank_loss"].isna().all()
    assert "low_rank_loss" not in synthetic_run.epochs
    assert "low rank" in texts(learning_curves(run.epochs_of(number), title="Trial"))
    assert "low rank" not in texts(learning_curves(synthetic_run.epochs_of(number), title="Trial"))


def test_every_density_is_named(synthetic_run: RunResults) -> None:
    densities = synthetic_run.densities[synthetic_run.densities["number"] == synthetic_run.best_number]
    axes = density_comparison(densities, optimised="grid_neighbours", epoch=MAX_EPOCHS).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["grid neighbours", "counts", "reconstruction error *"]
    assert "no other scores" in texts(density_comparison(densities, optimised="counts", epoch=99))


def test_code_usage_and_perplexity_by_hand() -> None:
    assert usage_shares(np.array([[0], [0], [1], [3]]), 5).tolist() == [[0.5, 0.25, 0.0, 0.25, 0.0]]
    two_books = np.array([[0, 2], [0, 3], [1, 3], [0, 3]])
    assert usage_shares(two_books, 4).tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert perplexity(np.full(8, 1 / 8)) == pytest.approx(8.0)
    assert perplexity(np.array([1.0, 0.0])) == pytest.approx(1.0)


def test_codes_that_anomalies_use_come_first() -> None:
    normal, anomaly = np.array([[0, 0, 1, 1], [0, 0, 1, 1]]), np.array([[0, 1, 2, 2]])
    contrast = code_contrast(np.concatenate([normal, anomaly])[..., None], np.array([0, 0, 1]), 4)
    assert contrast.index[0] == "2"
    assert contrast.loc["2", "anomaly"] == 0.5
    assert contrast.loc["2", "normal"] == 0.0
    # Counts 0 of 8 and 2 of 4 with half a count added to each of the four codes.
    assert contrast.loc["2", "log2_ratio"] == pytest.approx(np.log2((2.5 / 6) / (0.5 / 10)))
    assert len(drawn(anomaly_codes(contrast))) > 2000


def test_codes_where_one_kind_uses_a_single_code() -> None:
    contrast = code_contrast(np.array([[[0], [0]], [[1], [1]]]), np.array([0, 1]), 2)
    assert len(drawn(anomaly_codes(contrast))) > 2000


def test_codes_of_several_codebooks_are_named_and_counted_by_codebook() -> None:
    normal, anomaly = [[0, 2], [1, 2]], [[0, 3], [1, 3]]
    contrast = code_contrast(np.array([normal, anomaly]), np.array([0, 1]), 4)
    assert set(contrast.index) == {"1·0", "1·1", "2·0", "2·1"}
    assert contrast.index[0] == "2·1"
    assert contrast.loc["2·1", ["normal", "anomaly"]].tolist() == [0.0, 1.0]
    assert contrast.loc["1·0", "log2_ratio"] == 0.0


def test_codebook_usage_has_a_line_for_each_of_several_codebooks(synthetic_run: RunResults) -> None:
    epochs = synthetic_run.epochs[synthetic_run.epochs["number"] == synthetic_run.best_number]
    figure = codebook_usage(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), epochs)
    assert "3 of 6 codes used, perplexity 2 1" in texts(figure)
    assert len(figure.axes[0].get_lines()) == 3


def test_codebook_usage_counts_the_used_codes(synthetic_run: RunResults) -> None:
    epochs = synthetic_run.epochs[synthetic_run.epochs["number"] == synthetic_run.best_number]
    figure = codebook_usage(np.array([[0.5, 0.5, 0.0]]), epochs)
    assert "2 of 3 codes used, perplexity 2" in texts(figure)
    assert len(drawn(figure)) > 2000


def scored_clips() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 30)
    return rng.normal(size=60) + labels, labels, tuple(["00"] * 30 + ["02"] * 30)


def test_roc_names_each_ids_auc() -> None:
    scores, labels, ids = scored_clips()
    words = texts(roc_curves(scores, labels, ids, title="ROC"))
    assert f"id 00: AUC {auc(labels[:30], scores[:30]):.3f}" in words
    assert "false alarms ≤ 10%" in words


@pytest.mark.parametrize("names", [("00",), ("00", "02"), ("00", "02", "04")])
def test_histograms_hold_every_clip(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    ids = tuple(name for name in names for _ in range(20))
    labels = np.tile([0, 1], len(ids) // 2)
    figure = score_histograms(rng.normal(size=len(ids)), labels, ids, dict.fromkeys(names, 0.5), title="Scores")
    for axes in figure.axes[: len(names)]:
        assert sum(bar.get_height() for bar in axes.patches) == 20
    assert texts(figure).count("AUC 0.500") == len(names)


def test_the_surprise_map_averages_overlapping_patches() -> None:
    positions = np.stack([np.full((8, 8), 1.0), np.full((8, 8), 3.0)])
    positions[1, 2, 0] = 7.0  # third row of mels, first 8 frames of the second patch
    surprise = surprise_map(positions, np.array([0, 32]), 112, Geometry())
    assert surprise.shape == (8, 112)
    assert (surprise[:, :32] == 1.0).all()
    assert (surprise[0, 32:64] == 2.0).all()
    assert (surprise[2, 32:40] == 4.0).all()
    assert (surprise[:, 64:96] == 3.0).all()
    assert np.isnan(surprise[:, 96:]).all()


def test_a_spectrogram_with_surprise_has_seconds_below() -> None:
    rng = np.random.default_rng(2)
    figure = spectrogram_with_surprise(
        rng.normal(size=(100, 64)),
        rng.random((2, 8, 8)),
        np.array([0, 20]),
        geometry=Geometry(),
        seconds_per_frame=0.032,
        title="the recording of a machine in a hall, of a long name: " * 2,
        unit="nats",
        density="bigram",
        mel_hz=np.linspace(100, 8000, 64),
    )
    assert "surprise of bigram\n(nats)" in texts(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:2] == ["100", "980"]
    assert "Hatched: 16% of the clip lies outside its 2 patches." in texts(figure)
    assert figure.axes[0].get_title(loc="left").count("\n") == 1  # long, so in two lines
    assert figure.axes[1].get_xlabel() == "time (s)"
    assert figure.axes[1].get_xlim()[1] == pytest.approx(3.2)
    assert len(drawn(figure)) > 2000


JUDGED_FIGURES: dict[str, Callable[[RunResults], Figure]] = {
    "progress": lambda run: search_progress(run.trials, measure=run.measure),
    "curves": lambda run: all_curves(run.epochs, run.trials, highlight=run.best_number, measure=run.measure),
    "parallel": lambda run: parallel_coordinates(run.trials, run.distributions, measure=run.measure),
    "memory front": lambda run: auc_against_memory(run.trials, budget_bytes=BUDGET_BYTES, measure=run.measure),
    "time front": lambda run: auc_against_time(run.trials, measure=run.measure),
}
"""Every picture with an axis of values."""


@pytest.mark.parametrize("name", JUDGED_FIGURES)
def test_an_axis_of_values_says_what_they_are(name: str, unlabelled_run: RunResults, both_run: RunResults) -> None:
    words = texts(JUDGED_FIGURES[name](unlabelled_run))
    assert "pseudo-AUC" in words
    assert "validation" not in words
    figure = JUDGED_FIGURES[name](both_run)
    assert both_run.measure in texts(figure).replace("\n", " ")
    assert len(drawn(figure)) > 2000


def test_learning_curves_show_what_judged(
    synthetic_run: RunResults, unlabelled_run: RunResults, both_run: RunResults
) -> None:
    def shown(run: RunResults) -> tuple[str, list[str]]:
        axes = learning_curves(run.epochs_of(run.best_number or 0), title="Trial").axes[0]
        return axes.get_title(loc="left"), [text.get_text() for text in axes.get_legend().get_texts()]

    assert shown(synthetic_run) == ("Detection on validation clips", ["AUC", "pAUC"])
    assert shown(unlabelled_run) == ("Detection on pseudo-anomalies", ["pseudo-AUC"])
    assert shown(both_run) == (
        "On labels and pseudo-anomalies",
        ["AUC", "pAUC", "pseudo-AUC"],
    )


def test_densities_have_a_panel_for_each_kind_of_auc(unlabelled_run: RunResults, both_run: RunResults) -> None:
    for run, labels in ((unlabelled_run, ["pseudo-AUC"]), (both_run, ["validation AUC", "pseudo-AUC"])):
        rows = run.densities[run.densities["number"] == run.best_number]
        figure = density_comparison(rows, optimised=DENSITY, epoch=MAX_EPOCHS)
        assert [axes.get_xlabel() for axes in figure.axes] == labels
        assert [label.get_text() for label in figure.axes[-1].get_yticklabels()] == [
            DENSITY.replace("_", " "),
            "counts",
        ]
        assert len(drawn(figure)) > 2000


def test_families_against_each_other_name_the_members(unlabelled_run: RunResults) -> None:
    number = unlabelled_run.best_number or 0
    last = unlabelled_run.families[unlabelled_run.families["epoch"] == MAX_EPOCHS]
    others = {(int(each), DENSITY) for each in last["number"].unique()}
    axes = family_aucs(last, members=[(number, "counts")], optimised=others).axes[0]
    points = {str(each.get_label()): np.asarray(each.get_offsets()) for each in axes.collections}
    assert {name: len(places) for name, places in points.items()} == {
        "averaged by the detector": 1,
        "the trial's own": len(others),
        "other density models": len(others) - 1,
    }
    mean = unlabelled_run.ranked["final_auc"].iloc[0] - 0.05
    assert points["averaged by the detector"][0] == pytest.approx([mean + 0.01, mean - 0.01])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("AUC of bursts", "AUC of roughness")
    assert [text.get_text() for text in axes.texts] == [str(number)]


def test_families_that_cannot_be_drawn_are_said(unlabelled_run: RunResults) -> None:
    rows = unlabelled_run.families
    assert "has trained long enough yet" in texts(family_aucs(rows.head(0), members=[]))
    one = rows[(rows["family"] == "roughness") & (rows["epoch"] == 1)]
    assert "one family only, roughness" in texts(family_aucs(one, members=[]))
