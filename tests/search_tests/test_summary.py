"""What ``summary.json`` says of a search."""

import json
from pathlib import Path

from search.store.study import SearchStudy
from search.summary import write_results
from tests.search_tests.synthetic import make_conductor
from tests.search_tests.test_plan_recalibrate import manifest
from trainable.record import TrialEnd


def test_failures_of_another_driver_on_the_same_study_are_not_this_runs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    for name in ("mine", "another"):
        conductor = make_conductor(tmp_path / name, study=SearchStudy(url, "together", name, shared=True))
        conductor.store.folder.write_manifest(manifest())
        start = conductor.next_trial()
        assert start is not None
        conductor.finish(start.number, conductor.failed(start.number, TrialEnd.CRASHED, f"{name} broke"))
        write_results(conductor, conductor.store, None, seconds=1.0, skipped=0)
    assert [trial.user_attrs["run"] for trial in conductor.store.study.trials()] == ["mine", "another"]
    for number, name in enumerate(("mine", "another")):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["failures"] == [{"trial": number, "end": "crashed", "reason": f"{name} broke"}]
        assert summary["counts"]["crashed"] == 1
