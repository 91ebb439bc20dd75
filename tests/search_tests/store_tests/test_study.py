"""The durable study: every fact is there after the process is gone, under Optuna's states and our own words."""

import math
import re
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.engine.observation import memory_violation, observation, state_of
from search.engine.optuna_trials import frozen, to_optuna
from search.store.study import SearchStudy, outcome_of, start_of
from spaces.space import Choices, Range
from trainable.config import Objective, TrialConfig
from trainable.errors import RunError
from trainable.execution_plan import ExecutionPlan
from trainable.record import TrialEnd, TrialOutcome, TrialStart
from trainable.redaction import redact

PARAMS = {"stride": 8, "latent_dim": 16, "learning_rate": 0.001, "density_per_id": True}
DISTRIBUTIONS = {
    "stride": to_optuna(Choices((4, 8))),
    "latent_dim": to_optuna(Range(8, 64, log=True, integer=True)),
    "learning_rate": to_optuna(Range(1e-4, 1e-2, log=True)),
    "density_per_id": to_optuna(Choices((True, False))),
}
CONFIG = TrialConfig.from_flat({**PARAMS, "width": 0.5, "seed": 3})
PLAN = ExecutionPlan(micro_batch_clips=2)
"""Each test makes a database and forces every commit to a disk that may be busy."""


def open_study(path: Path, run: str = "run", **options: Any) -> SearchStudy:
    return SearchStudy(f"sqlite:///{path / 'study.db'}", "name", run, **options)


def known(params: dict[str, Any] = PARAMS, plan: ExecutionPlan | None = PLAN) -> TrialStart:
    """What is known of a trial before the study gives it its number."""
    return TrialStart(number=0, params=params, config=CONFIG, plan=plan, predicted_bytes=99)


def start(study: SearchStudy) -> int:
    return study.start(known(), DISTRIBUTIONS).number


def outcome(end: TrialEnd, final_auc: float | None = 0.75) -> TrialOutcome:
    reason = "" if end is TrialEnd.COMPLETED else f"because it was {end}"
    return TrialOutcome(end=end, reason=reason, epochs=2, best_auc=0.8, final_auc=final_auc, failures=1)


ENDINGS = [
    (TrialEnd.COMPLETED, TrialState.COMPLETE, 0.75, {}),
    (TrialEnd.PRUNED, TrialState.PRUNED, None, {}),
    (TrialEnd.OUT_OF_MEMORY, TrialState.PRUNED, None, {"failure": 1.0}),
    (TrialEnd.NON_FINITE, TrialState.PRUNED, None, {"failure": 1.0}),
    (TrialEnd.CRASHED, TrialState.PRUNED, None, {"failure": 1.0}),
]


@pytest.mark.parametrize(("end", "state", "value", "constraints"), ENDINGS, ids=[each[0] for each in ENDINGS])
def test_each_ending_has_its_state_and_keeps_its_word(
    tmp_path: Path, end: TrialEnd, state: TrialState, value: float | None, constraints: dict[str, float]
) -> None:
    study = open_study(tmp_path)
    number = start(study)
    study.report(number, 1, 0.5)
    study.report(number, 2, 0.75)
    study.finish(number, outcome(end))
    (trial,) = open_study(tmp_path).trials()
    assert trial.state == state
    assert trial.value == value
    assert trial.constraints == constraints
    assert trial.params == PARAMS
    assert trial.intermediate_values == {1: 0.5, 2: 0.75}
    assert outcome_of(trial) == outcome(end)


@pytest.mark.parametrize("auc", [None, math.nan, math.inf])
def test_completed_without_a_finite_value_is_not_complete(auc: float | None) -> None:
    assert state_of(outcome(TrialEnd.COMPLETED, auc)) == (TrialState.PRUNED, None)
    assert state_of(outcome(TrialEnd.COMPLETED)) == (TrialState.COMPLETE, 0.75)


def test_over_budget_is_recorded_without_having_run(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    over = TrialOutcome(end=TrialEnd.OVER_BUDGET, reason="too large", epochs=0, best_auc=None, final_auc=None)
    refused = replace(known(plan=None), predicted_bytes=2000)
    number = study.over_budget(refused, DISTRIBUTIONS, over, budget_bytes=1000).number
    (trial,) = open_study(tmp_path).trials()
    assert (trial.number, trial.state) == (number, TrialState.PRUNED)
    assert trial.constraints == {"memory": pytest.approx(math.log(2))}
    assert trial.user_attrs["predicted_share_of_budget"] == 2.0
    assert outcome_of(trial) == over
    assert start_of(trial).plan is None


@pytest.mark.parametrize("objective", Objective)
def test_dashboards_find_what_a_value_is_called(tmp_path: Path, objective: Objective) -> None:
    for _ in range(2):
        study = SearchStudy.in_folder(tmp_path / "study.db", "press", objective=objective)
        assert study.optuna_study.metric_names == [objective.metric]


def test_memory_violation_is_zero_at_the_budget_and_grows_with_the_ratio() -> None:
    assert memory_violation(10, 10) == 0.0
    assert memory_violation(27, 10) == pytest.approx(math.log(2.7))
    assert memory_violation(9, 10) < 0


def test_what_was_known_at_the_start_is_read_back(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    assert [start(study), start(study)] == [0, 1]
    trial = open_study(tmp_path).trials()[1]
    assert trial.state == TrialState.RUNNING
    begun = start_of(trial)
    assert (begun.number, begun.params, begun.config) == (1, PARAMS, CONFIG)
    assert (begun.plan, begun.predicted_bytes) == (PLAN, 99)
    assert outcome_of(trial) is None
    assert [type(value) for value in begun.params.values()] == [int, int, float, bool]


def test_a_trial_left_running_is_taken_over(tmp_path: Path) -> None:
    number = start(open_study(tmp_path))
    study = open_study(tmp_path)
    with pytest.raises(KeyError):
        study.report(number, 1, 0.5)
    study.adopt(study.trials()[number])
    study.report(number, 1, 0.5)
    study.finish(number, outcome(TrialEnd.PRUNED))
    assert study.trials()[0].state == TrialState.PRUNED
    with pytest.raises(KeyError):
        study.finish(number, outcome(TrialEnd.PRUNED))


def test_an_observation_is_what_the_storage_would_give(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for end, *_ in ENDINGS:
        number = start(study)
        study.report(number, 2, 0.75)
        study.finish(number, outcome(end))
        stored = study.trials()[number]
        made = observation(number, PARAMS, DISTRIBUTIONS, {2: 0.75}, outcome(end))
        for name in ("number", "state", "params", "distributions", "intermediate_values", "constraints"):
            assert getattr(made, name) == getattr(stored, name), name
        if end is TrialEnd.COMPLETED:
            assert made.value == stored.value


def test_runs_that_share_a_study_know_their_own_trials(tmp_path: Path) -> None:
    mine, theirs = open_study(tmp_path, "mine", shared=True), open_study(tmp_path, "theirs", shared=True)
    assert [start(mine), start(theirs), start(mine)] == [0, 1, 2]
    theirs.finish(1, outcome(TrialEnd.COMPLETED))
    trials = mine.trials()
    assert [mine.is_mine(trial) for trial in trials] == [True, False, True]
    assert trials[1].state == TrialState.COMPLETE, "what another driver wrote is seen"
    assert not mine.is_mine(frozen(9, TrialState.RUNNING, {}, {}))


def test_what_is_new_or_was_unfinished_is_fresh(tmp_path: Path) -> None:
    mine, theirs = open_study(tmp_path, "mine", shared=True), open_study(tmp_path, "theirs", shared=True)
    first, second, third = start(theirs), start(theirs), start(theirs)
    assert [trial.number for trial in mine.unread_trials()] == [first, second, third]
    theirs.finish(second, outcome(TrialEnd.COMPLETED))
    seen = mine.unread_trials()
    assert [(trial.number, trial.state) for trial in seen] == [
        (first, TrialState.RUNNING),
        (second, TrialState.COMPLETE),
        (third, TrialState.RUNNING),
    ]
    fourth = start(mine)
    assert [trial.number for trial in mine.unread_trials()] == [first, third, fourth]
    theirs.finish(third, outcome(TrialEnd.PRUNED))
    mine.mark_read(mine.trials()[third])
    assert [trial.number for trial in mine.unread_trials()] == [first, fourth], "what was seen elsewhere is left out"


OTHER = {**DISTRIBUTIONS, "stride": to_optuna(Choices((16, 32))), "latent_dim": to_optuna(Range(8.0, 64.0))}
OTHER_PARAMS = {**PARAMS, "stride": 32, "latent_dim": 11.5}


def test_a_trial_of_another_space_is_kept_whole_in_a_study_of_one_run(tmp_path: Path) -> None:
    """Optuna takes neither other choices nor another kind of number under the same name."""
    study = open_study(tmp_path)
    numbers = [
        study.start(known(params), distributions).number
        for params, distributions in ((PARAMS, DISTRIBUTIONS), (OTHER_PARAMS, OTHER), (PARAMS, DISTRIBUTIONS))
    ]
    for read in (study, open_study(tmp_path)):
        for trials in (read.trials(), read.unread_trials()):
            assert [trial.number for trial in trials] == numbers
            assert [trial.params for trial in trials] == [PARAMS, OTHER_PARAMS, PARAMS]
            assert [trial.distributions for trial in trials] == [DISTRIBUTIONS, OTHER, DISTRIBUTIONS]
    stored = study.optuna_study.get_trials()[1]
    assert stored.params == {name: PARAMS[name] for name in ("learning_rate", "density_per_id")}
    resumed = open_study(tmp_path)
    assert resumed.start(known(OTHER_PARAMS), OTHER).number == 3
    assert resumed.trials()[3].params == OTHER_PARAMS


def test_a_study_of_several_spaces_as_earlier_versions_wrote_it_is_read_and_written(tmp_path: Path) -> None:
    """They wrote Optuna's tables themselves, and a parameter of another space among the others."""
    study = open_study(tmp_path)
    assert [start(study), start(study)] == [0, 1]
    study._writer._storage.engine.dispose()
    with sqlite3.connect(tmp_path / "study.db") as database:
        changed = database.execute(
            "UPDATE trial_params SET distribution_json = ?, param_value = 1 "
            "WHERE trial_id = 2 AND param_name = 'stride'",
            (optuna.distributions.distribution_to_json(OTHER["stride"]),),
        )
        assert changed.rowcount == 1
    database.close()
    resumed = open_study(tmp_path)
    assert [trial.params["stride"] for trial in resumed.trials()] == [8, 32]
    assert resumed.start(known(OTHER_PARAMS), OTHER).number == 2
    assert resumed.start(known(), DISTRIBUTIONS).number == 3
    assert [trial.params["stride"] for trial in open_study(tmp_path).trials()] == [8, 32, 32, 8]


def test_a_trial_of_another_space_is_refused_where_others_write_too(tmp_path: Path) -> None:
    start(open_study(tmp_path, "mine", shared=True))
    theirs = open_study(tmp_path, "theirs", shared=True)
    with pytest.raises(RunError, match=r"holds trials of another space: .*; name another --study-name"):
        theirs.start(known(OTHER_PARAMS), OTHER)
    assert len(theirs.trials()) == 1, "nothing of it is left"


DRIVER = """
import sys
from pathlib import Path
from tests.search_tests.store_tests.test_study import open_study, outcome, start
from trainable.record import TrialEnd
study = open_study(Path(sys.argv[1]), sys.argv[2], shared=True)
for _ in range(12):
    number = start(study)
    study.report(number, 1, 0.5)
    study.finish(number, outcome(TrialEnd.COMPLETED))
    print(number)
"""


@pytest.mark.slow
def test_drivers_that_write_at_once_never_get_the_same_number(tmp_path: Path) -> None:
    open_study(tmp_path, "first", shared=True)
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("mine", "theirs")
    ]
    numbers: dict[str, list[int]] = {}
    for name, driver in zip(("mine", "theirs"), drivers, strict=True):
        out, err = driver.communicate(timeout=100)
        assert driver.returncode == 0, err
        numbers[name] = [int(line) for line in out.split()]
    assert sorted(numbers["mine"] + numbers["theirs"]) == list(range(24))
    for trial in open_study(tmp_path).trials():
        assert trial.number in numbers[trial.user_attrs["run"]], "each has its own driver's trial"
        assert trial.state == TrialState.COMPLETE


KILLED = """
import os, sys
from pathlib import Path
from tests.search_tests.store_tests.test_study import open_study, outcome, start
from trainable.record import TrialEnd
study = open_study(Path(sys.argv[1]))
first, second = start(study), start(study)
study.report(first, 1, 0.5)
study.finish(first, outcome(TrialEnd.COMPLETED))
study.report(second, 1, 0.625)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert process.returncode == -9, process.stderr
    first, second = open_study(tmp_path).trials()
    assert (first.state, first.value) == (TrialState.COMPLETE, 0.75)
    assert (second.state, second.intermediate_values) == (TrialState.RUNNING, {1: 0.625})


def test_sqlite_writes_ahead_and_forces_every_commit_to_disk(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    start(study)
    with study._writer._storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2, "FULL"
    assert (tmp_path / "study.db-wal").exists()
    # A reader in the middle of a transaction does not hold up the writer.
    reader = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM trials").fetchall()
    start(study)
    reader.close()
    assert len(study.trials()) == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////tmp/study.db", "sqlite:////tmp/study.db"),
        ("postgresql://bob:hunter2@db.example:5432/ad", "postgresql://***@db.example:5432/ad"),
        ("postgresql+psycopg://bob:p@ss:w@db/ad?sslmode=require", "postgresql+psycopg://***@db/ad"),
        ("postgresql://bob:hun/ter2@db/ad", "postgresql://***@db/ad"),
        ("postgresql://bob:hun?ter2@db/ad", "postgresql://***"),
        ("postgresql://bob:hun#ter2@db/ad", "postgresql://***"),
        ("postgresql://db/ad?user=bob&password=hunter@2", "postgresql://***"),
        ("postgresql://db/ad?user=bob&password=hunter2", "postgresql://db/ad"),
        ("postgresql://bob:hunter2@[::1/ad", "postgresql://***@[::1/ad"),
        ("mysql://bob:hunter2@/ad", "mysql://***@/ad"),
        ("no url at all", "no url at all"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all/study.db",
        "postgresql://bob:hunter2@127.0.0.1:1/ad",
        "postgresql://bob:hunter2@[::1/ad",
        "postgresql://bob:p%40hunter2@127.0.0.1:port/ad",
        "unknown://bob:hunter2@db/ad?password=hunter2",
        "hunter",
        "",
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_sentence_without_secrets(url: str) -> None:
    with pytest.raises(RunError, match="cannot be opened") as caught:
        SearchStudy(url, "name", "run")
    message = str(caught.value)
    assert "\n" not in message
    assert "hunter2" not in message
    assert "bob" not in message


DAMAGED = "restore it from a copy, or move it away and resume: it is rebuilt from the run's folder (study.db-wal and "


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(RunError, match=r"not a database; restore it from a copy$"):
        open_study(tmp_path)
    with pytest.raises(RunError, match=re.escape(f"study.db cannot be opened: file is not a database; {DAMAGED}")):
        SearchStudy.in_folder(tmp_path / "study.db", "name")


def test_only_a_damaged_study_is_to_be_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "study.db"
    with pytest.raises(RunError, match=r"/gone/study.db cannot be opened: .*; check that its folder is there"):
        SearchStudy.in_folder(tmp_path / "gone" / "study.db", "name")
    SearchStudy.in_folder(path, "name")
    monkeypatch.setattr("search.store.storage.WRITE_TIMEOUT_SECONDS", 0)
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match=r"study.db cannot be (opened|written): database is locked; another program"):
        SearchStudy.in_folder(path, "another")
    other.rollback()
    other.execute("UPDATE alembic_version SET version_num = 'v9'")
    other.commit()
    other.close()
    with pytest.raises(
        RunError, match=r"study.db cannot be opened: The runtime optuna version .*; it is another Optuna"
    ):
        SearchStudy.in_folder(path, "name")


@pytest.mark.parametrize("names", [("p q", "p%20q"), ("a", "a?b"), ("f/x", "f%2Fx"), ("r\udce9", "r\udce8")])
def test_paths_that_are_alike_have_a_study_each(tmp_path: Path, names: tuple[str, str]) -> None:
    for count, name in enumerate(names, start=1):
        (tmp_path / name).mkdir(parents=True)
        study = SearchStudy.in_folder(tmp_path / name / "study.db", "name")
        assert study.where == f"{tmp_path}/{name}/study.db"
        for _ in range(count):
            start(study)
    for count, name in enumerate(names, start=1):
        assert len(SearchStudy.in_folder(tmp_path / name / "study.db", "name").trials()) == count
