"""What nothing beats in value, memory and time, reckoned by hand; how well times were predicted."""

import numpy as np
import pandas as pd
import pytest

from analysis.front import beaten, front_text, time_text, unbeaten
from analysis.results import RunResults
from analysis.tables import front_table


def table(**columns: list[object]) -> pd.DataFrame:
    rows = {"end": ["completed"] * 4, "predicted_bytes": [3, 2, 2, 1], "predicted_epoch_seconds": [float("nan")] * 4}
    return pd.DataFrame({**rows, "final_auc": [0.9, 0.8, 0.8, 0.7], "epoch_seconds": [1.0, 1.0, 2.0, 9.0], **columns})


def test_a_point_is_beaten_by_one_that_is_no_worse_and_somewhere_better() -> None:
    costs = np.array([[1.0, 5.0], [2.0, 5.0], [0.0, 9.0], [1.0, 5.0], [3.0, 3.0]])
    assert beaten(costs).tolist() == [False, True, False, False, False], "of equal points neither beats the other"


def test_completed_trials_that_nothing_beats_in_all_three() -> None:
    assert unbeaten(table()).index.tolist() == [0, 1, 3], "trial 2 needs the memory of trial 1 and more time"
    assert unbeaten(table(end=["pruned", "completed", "completed", "completed"])).index.tolist() == [1, 3]
    assert unbeaten(table(predicted_bytes=[603, 601, 602, 604], final_auc=[0.9] * 4)).index.tolist() == [0, 1]
    assert unbeaten(table(final_auc=[0.9, 0.8, 0.8, float("nan")])).index.tolist() == [0, 1]


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
    assert shown.columns[:4] == ("trial", synthetic_run.measure, "memory (predicted)", "an epoch")
    values = [float(row[1]) for row in shown.rows]
    assert values == sorted(values, reverse=True)
    assert float(shown.rows[0][1]) == pytest.approx(
        synthetic_run.trials.loc[synthetic_run.trials["end"] == "completed", "final_auc"].max(), abs=1e-3
    )
