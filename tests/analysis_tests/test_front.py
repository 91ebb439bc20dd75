"""What nothing beats in value, memory and time, reckoned by hand; how well times were predicted."""

import numpy as np
import pandas as pd
import pytest

from analysis.front import beaten, front_text, time_text, unbeaten
from analysis.report_content import front_words
from analysis.results import RunResults
from analysis.tables import front_table


def table(**columns: list[object]) -> pd.DataFrame:
    rows = {"end": ["completed"] * 4, "predicted_bytes": [3, 2, 2, 1], "predicted_epoch_seconds": [float("nan")] * 4}
    rows |= {"peak_bytes": [0] * 4, "final_auc": [0.9, 0.8, 0.8, 0.7], "epoch_seconds": [1.0, 1.0, 2.0, 9.0]}
    return pd.DataFrame({**rows, **columns})


def test_a_point_is_beaten_by_one_that_is_no_worse_and_somewhere_better() -> None:
    costs = np.array([[1.0, 5.0], [2.0, 5.0], [0.0, 9.0], [1.0, 5.0], [3.0, 3.0]])
    assert beaten(costs).tolist() == [False, True, False, False, False], "of equal points neither beats the other"


@pytest.mark.parametrize("goals", [1, 2, 3])
def test_what_is_beaten_agrees_with_every_pair_compared(goals: int) -> None:
    costs = np.random.default_rng(0).integers(0, 6, (60, goals)).astype(float)  # many ties
    pairwise = [any((other <= cost).all() and (other < cost).any() for other in costs) for cost in costs]
    assert beaten(costs).tolist() == pairwise


def test_completed_trials_that_nothing_beats_in_all_three() -> None:
    assert unbeaten(table()).index.tolist() == [0, 1, 3], "trial 2 needs the memory of trial 1 and more time"
    assert unbeaten(table(end=["pruned", "completed", "completed", "completed"])).index.tolist() == [1, 3]
    assert unbeaten(table(predicted_bytes=[603, 601, 602, 604], final_auc=[0.9] * 4)).index.tolist() == [0, 1]
    assert unbeaten(table(final_auc=[0.9, 0.8, 0.8, float("nan")])).index.tolist() == [0, 1]


def test_memory_is_what_was_measured_where_anything_was() -> None:
    assert unbeaten(table(peak_bytes=[3, 0, 1, 2])).index.tolist() == [0, 2], "the memory of trial 1 is unknown"
    assert unbeaten(table(predicted_bytes=[0] * 4)).index.tolist() == [0], "value and time decide alone"


def test_a_long_front_is_cut_and_says_so() -> None:
    steps = np.arange(15)
    trials = pd.DataFrame({"end": "completed", "final_auc": 0.9 - steps / 100, "predicted_bytes": 99 - steps})
    trials = trials.assign(peak_bytes=0, epoch_seconds=1.0)
    text = front_text(trials, "AUC")
    assert "than one of 15; the report shows what each of the first 12 by AUC costs: 0, 1, 2," in text
    assert text.endswith(", 10 and 11.")
    assert "lists the first 12 of 15 completed trials that" in front_words(trials)
    assert "lists the completed trials that" in front_words(trials.head(12))
    assert "than one of the trials 0, 1," in front_text(trials.head(12), "AUC")


def test_the_front_in_one_line() -> None:
    assert "than one of the trials 0, 1 and 3;" in front_text(table(), "validation AUC")
    assert front_text(table().head(1), "AUC") == "Trial 0 is the best completed one in AUC, memory and time at once."
    assert front_text(table(end=["pruned"] * 4), "AUC") == front_text(pd.DataFrame(), "AUC") == ""


def test_how_well_times_were_predicted() -> None:
    nothing = time_text(table())
    assert nothing == time_text(pd.DataFrame()) == ""
    text = time_text(table(predicted_epoch_seconds=[1.0, 2.0, 1.0, float("nan")]))
    assert "measured ÷ predicted is 1.00 in the median, 0.50 … 2.00, rank correlation -0.50." in text


def test_the_table_of_a_run_has_its_front(synthetic_run: RunResults) -> None:
    shown = front_table(synthetic_run)
    assert [row[0] for row in shown.rows] == [str(number) for number in unbeaten(synthetic_run.trials).index][:12]
    assert shown.columns[:4] == ("trial", synthetic_run.measure, "memory (measured peak)", "an epoch")
    values = [float(row[1]) for row in shown.rows]
    assert values == sorted(values, reverse=True)
    assert float(shown.rows[0][1]) == pytest.approx(
        synthetic_run.trials.loc[synthetic_run.trials["end"] == "completed", "final_auc"].max(), abs=1e-3
    )
