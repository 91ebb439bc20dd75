"""The record of a run: what is written is read back, half-written lines are mended, damage is named."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainable.config import TrialConfig
from trainable.durable import read_json, write_json
from trainable.errors import RunError
from trainable.execution_plan import ExecutionPlan
from trainable.record import EpochReport, RunFolder, RunManifest, TrialEnd, TrialOutcome, TrialRecord, TrialStart

CONFIG = TrialConfig.from_flat({"stride": 4, "width": 0.5})
START = TrialStart(number=7, params={"stride": 4}, config=CONFIG, plan=None, predicted_bytes=3)
OUTCOME = TrialOutcome(end=TrialEnd.PRUNED, reason="not among the best", epochs=2, best_auc=0.75, final_auc=None)
MANIFEST = RunManifest(
    name="run",
    command="python -m search.run",
    created="2026-01-01T00:00:00+00:00",
    seed=3,
    space_name="ad_smoke",
    space_digest="0" * 64,
    data={"machine_type": "fan"},
    data_digest="1" * 64,
    num_samples=4,
    max_epochs=3,
    gpu_memory_budget_bytes=None,
    device="cpu",
    study_storage=None,
    study_name="run",
    commit="",
    versions={"torch": "2.13.0"},
    history=({"when": "later"},),
)


def report(epoch: int, auc: float = 0.6) -> EpochReport:
    texts = {"plan": ExecutionPlan(micro_batch_clips=4), "auc_by_id": {"00": 0.5}, "events": ("recovered",)}
    numbers = {each.name: 0.5 for each in dataclasses.fields(EpochReport) if each.type is float}
    counts = {"epoch": epoch, "phase": 1, "peak_bytes": 0, "predicted_bytes": 9}
    return EpochReport(**{**numbers, **counts, **texts, "validation_auc": auc})  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of one trial with two epochs, ended."""
    run = RunFolder(tmp_path / "run")
    run.write_manifest(MANIFEST)
    run.write_start(START)
    for epoch in (1, 2):
        run.append_epoch(7, report(epoch))
    run.write_outcome(7, OUTCOME)
    return run


def epochs_path(run: RunFolder) -> Path:
    return run.trial_path(7) / "epochs.jsonl"


def test_what_is_written_is_read_back(folder: RunFolder) -> None:
    # A manifest from before there were choices does not say what went without saying.
    before = {"objective": "labels", "rules": 1, "channel": "mean", **MANIFEST.data}
    assert folder.read_manifest() == dataclasses.replace(MANIFEST, data=before)
    assert folder.read_trials() == [TrialRecord(START, (report(1), report(2)), OUTCOME)]
    assert folder.read_trial(7).number == 7
    assert folder.read_trial(7).outcome.end is TrialEnd.PRUNED  # type: ignore[union-attr]


@given(st.floats(allow_nan=False), st.text(max_size=20))
def test_every_report_survives_its_line(auc: float, event: str) -> None:
    one = dataclasses.replace(report(3, auc), events=(event,), auc_by_id={event: auc})
    assert EpochReport.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_a_value_that_is_no_number_stays_one(folder: RunFolder) -> None:
    folder.append_epoch(7, report(3, float("nan")))
    last = folder.read_trial(7).epochs[-1]
    assert last.validation_auc != last.validation_auc


def test_a_running_trial_has_no_outcome(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_start(START)
    assert run.read_trials() == [TrialRecord(START, (), None)]
    assert RunFolder(tmp_path / "nothing").read_trials() == []


def test_trials_come_in_the_order_of_their_numbers_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for number in (100_000, 3, 20):
        run.write_start(dataclasses.replace(START, number=number))
    for stranger in ("²³⁴⁵⁶", "00004", "notes", "1"):
        (tmp_path / "trials" / stranger).mkdir()
    assert [record.number for record in run.read_trials()] == [3, 20, 100_000]


def test_the_later_report_of_an_epoch_counts(folder: RunFolder) -> None:
    folder.append_epoch(7, report(2, 0.9))
    folder.append_epoch(7, report(1, 0.8))
    assert [each.validation_auc for each in folder.read_trial(7).epochs] == [0.8, 0.9]


@pytest.mark.parametrize("cut", [1, 2, 50, 200])
def test_a_half_written_line_is_left_out_and_the_next_one_mends_it(folder: RunFolder, cut: int) -> None:
    path = epochs_path(folder)
    path.write_bytes(path.read_bytes()[:-cut])
    kept = [report(1), report(2)] if cut == 1 else [report(1)]
    assert list(folder.read_trial(7).epochs) == kept
    folder.append_epoch(7, report(3))
    assert list(folder.read_trial(7).epochs) == [*kept, report(3)]
    folder.append_epoch(7, report(4))
    assert list(folder.read_trial(7).epochs) == [*kept, report(3), report(4)]


def test_zeros_after_a_power_cut_are_half_a_line(folder: RunFolder) -> None:
    with epochs_path(folder).open("ab") as file:
        file.write(b"\0" * 4096)
    assert list(folder.read_trial(7).epochs) == [report(1), report(2)]
    folder.append_epoch(7, report(3))
    assert list(folder.read_trial(7).epochs) == [report(1), report(2), report(3)]


def test_a_first_line_that_was_half_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_start(START)
    epochs_path(run).write_text('{"epoch": 1, "pha')
    assert run.read_trial(7).epochs == ()
    run.append_epoch(7, report(1))
    assert run.read_trial(7).epochs == (report(1),)


def changed(**values: object) -> str:
    return json.dumps({**report(1).to_dict(), **values})


DAMAGE = [
    ("trial.json", "", "cannot be read as the start of a trial"),
    ("trial.json", "[]", "it does not hold a JSON object"),
    ("trial.json", "{}", "the field 'config' is missing"),
    ("trial.json", '{"a": ' + "9" * 5000 + "}", "cannot be read as the start of a trial"),
    ("trial.json", "[" * 100_000, "cannot be read as the start of a trial"),
    ("trial.json", json.dumps({**START.to_dict(), "number": 8}), "trial.json is that of trial 8"),
    ("trial.json", json.dumps({**START.to_dict(), "number": "7"}), "number is '7', which is not of type int"),
    ("trial.json", json.dumps({**START.to_dict(), "new": 1}), "unknown field 'new'"),
    (
        "end.json",
        json.dumps({**dataclasses.asdict(OUTCOME), "end": "tired"}),
        "end is 'tired', which is not of type TrialEnd",
    ),
    ("end.json", json.dumps({**dataclasses.asdict(OUTCOME), "end": []}), "end is [], which is not of type TrialEnd"),
    (
        "end.json",
        json.dumps({**dataclasses.asdict(OUTCOME), "epochs": True}),
        "epochs is True, which is not of type int",
    ),
    ("end.json", json.dumps({**dataclasses.asdict(OUTCOME), "best_auc": "high"}), "best_auc is 'high'"),
    ("epochs.jsonl", "{half\n" + changed(), "line 1 of epochs.jsonl is damaged"),
    ("epochs.jsonl", "[1]\n", "line 1 of epochs.jsonl is no report"),
    ("epochs.jsonl", changed(epoch=[1]), "epoch is [1], which is not of type int"),
    ("epochs.jsonl", changed(auc_by_id={"00": "a"}), "auc_by_id['00'] is 'a', which is not of type float"),
    ("epochs.jsonl", changed(events="one"), "events is 'one', which is not of type tuple[str, ...]"),
    ("epochs.jsonl", changed(loss=10**400), "loss is larger than any float"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE, ids=[each[2] for each in DAMAGE])
def test_a_damaged_trial_is_named(folder: RunFolder, name: str, content: str, message: str) -> None:
    (folder.trial_path(7) / name).write_text(content)
    with pytest.raises(RunError) as caught:
        folder.read_trials()
    assert message in str(caught.value)
    assert str(folder.trial_path(7)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x"}, "is not the manifest of a run: the field 'command' is missing"),
        ({**dataclasses.asdict(MANIFEST), "seed": "abc"}, "seed is 'abc', which is not of type int"),
        ({**dataclasses.asdict(MANIFEST), "history": 5}, "history is 5"),
        (
            {**dataclasses.asdict(MANIFEST), "versions": {"torch": 2}},
            "versions['torch'] is 2, which is not of type str",
        ),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, values: dict[str, object], message: str) -> None:
    write_json(tmp_path / "manifest.json", values)
    with pytest.raises(RunError) as caught:
        RunFolder(tmp_path).read_manifest()
    assert message in str(caught.value)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist; expected a run's manifest there"):
        RunFolder(tmp_path).read_manifest()
    with pytest.raises(RunError, match="does not exist; expected the start of a trial"):
        RunFolder(tmp_path).read_trial(3)
    for name in ("trial.json", "epochs.jsonl", "end.json"):
        run = RunFolder(tmp_path / name)
        run.write_start(START)
        (run.trial_path(7) / name).unlink(missing_ok=True)
        (run.trial_path(7) / name).mkdir()
        with pytest.raises(RunError, match="Is a directory"):
            run.read_trial(7)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path, what="values") == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["values.json"]


def test_what_the_file_system_refuses_is_an_error_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("in the way")
    run = RunFolder(tmp_path)
    with pytest.raises(RunError, match=r"cannot be written: .*; make room or name another folder"):
        run.write_start(START)
    with pytest.raises(RunError, match="cannot be written"):
        run.append_epoch(7, report(1))
    with pytest.raises(RunError, match="cannot be written"):
        run.write_outcome(7, OUTCOME)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        run.write_manifest(MANIFEST)
