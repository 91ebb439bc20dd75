"""What is said about a search that pseudo-anomalies judged."""

from dataclasses import replace

import pytest

from analysis.judged import families_table, judged_tables, judged_text, judged_warnings, members, members_table
from analysis.results import RunResults
from tests.analysis_tests.synthetic import DENSITY, FAMILY_SPREAD
from trainable.record import TrialEnd


def test_where_labels_alone_judged_there_is_nothing_to_say(synthetic_run: RunResults) -> None:
    assert judged_text(synthetic_run) == judged_warnings(synthetic_run) == judged_tables(synthetic_run) == []
    assert members(synthetic_run) == []


def test_what_was_held_back_is_counted_and_no_promise_made(unlabelled_run: RunResults) -> None:
    held_back, promise = judged_text(unlabelled_run)
    assert held_back.startswith("17 normal clips were held back from training and from density models (id 00: 12, id 0")
    assert "is no AUC on real faults" in promise


def test_families_are_explained_with_their_severity(unlabelled_run: RunResults) -> None:
    roughness, bursts = families_table(unlabelled_run).rows
    assert roughness == ("roughness", "it fluctuates more from frame to frame", "0.201", "0.702")
    assert bursts[0] == "bursts"
    assert bursts[3] == "0.610 (its target was not reached)"


def test_a_family_of_another_version_has_a_row(unlabelled_run: RunResults) -> None:
    severity = {"family": "hum", "alpha": 1.0, "reference_auc": 0.7, "reached": True}
    manifest = replace(unlabelled_run.manifest, pseudo={"severities": [severity]})
    run = replace(unlabelled_run, manifest=manifest)
    assert families_table(run).rows == (("hum", "of another version of this project", "1", "0.700"),)
    assert judged_text(run)[0].startswith("Some normal clips were held back")


def test_members_are_the_best_pairs(unlabelled_run: RunResults) -> None:
    """The formula ranks each trial's own density above its counts, and both families alike."""
    ranked = unlabelled_run.ranked
    completed = ranked[ranked["end"] == TrialEnd.COMPLETED.value]
    table = members_table(unlabelled_run)
    assert table.columns == ("trial", "density model", "bursts", "roughness", "mean", "mean rank")
    number, density, bursts, roughness, mean, rank = table.rows[0]
    assert (number, density, rank) == (str(completed.index[0]), DENSITY.replace("_", " "), "1")
    assert float(mean) == pytest.approx(completed["final_auc"].iloc[0], abs=0.0006)
    for auc, family in ((bursts, "bursts"), (roughness, "roughness")):
        assert float(auc) - float(mean) == pytest.approx(FAMILY_SPREAD[family], abs=0.0011)
    assert len(table.rows) == len(members(unlabelled_run))
    assert {int(row[0]) for row in table.rows} <= set(completed.index)


def test_warnings_of_the_clips_and_of_the_ranking_are_sentences(unlabelled_run: RunResults) -> None:
    first, *more = judged_warnings(unlabelled_run)
    assert first == "Fewer than 8 normal clips are held back of machine id 02 (5): its pseudo-AUC is rough."
    records = {unlabelled_run.best_number or 0: unlabelled_run.records[unlabelled_run.best_number or 0]}
    alone = judged_warnings(replace(unlabelled_run, records=records))
    assert alone[1].startswith("Only 1 trial")
    assert alone[1].endswith("search more.")
    assert len(alone) > len(more)
