"""Whatever stands in a file that is read back, it is refused in one clear line or gives the answer that it gave.

One value of a good file is replaced by another, or some of its bytes are, and the rest, checksums included, is right.
`make test-properties` draws many more examples.
"""

import copy
import functools
import hashlib
import io
import json
import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.engine.conductor import Conductor
from search.first_proposals import first_proposals
from search.store.study import SearchStudy
from spaces.loader import space_from_text
from tests.fuzz import resumed
from tests.fuzz.mutation import mutated
from tests.search_tests.synthetic import conductor_of
from tests.search_tests.test_first_proposals import old_run
from tests.trainable_tests.test_record import report
from trainable.config import FrontEndConfig, TrialConfig
from trainable.data.load import Dataset
from trainable.data.normalise import load_stats
from trainable.detection.detector import Detector, Member, build_detector
from trainable.detection.saved import digest_of
from trainable.errors import ProjectError
from trainable.memory.profile import PROFILES, DeviceProfile
from trainable.record import RunFolder
from trainable.trial import PlannedTrial, Trial

Path_ = tuple[str | int, ...]
"""Keys and indices to a value within others."""
DRAWN = os.environ.get("HYPOTHESIS_PROFILE") == "drawn"
INSTEAD = (math.nan, math.inf, -1, 0, 0.5, "", "x", [], {}, None, True, 10**400, [[1]])
ROWS = {
    "trials": ("state",),
    "trial_values": ("value",),
    "trial_params": ("param_value", "distribution_json"),
    "trial_intermediate_values": ("step", "intermediate_value"),
    "trial_user_attributes": ("key", "value_json"),
}
"""Tables of a study and their columns; what readers alone look at, or nobody, is not among them."""
FOR_READERS = ("predicted_MiB", "predicted_share_of_budget", "draws", "reason", "end")


def examples(few: int) -> Any:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=20 * few if DRAWN else few, deadline=None, suppress_health_check=checks)


def places(values: Any, before: Path_ = ()) -> Iterator[Path_]:
    """Where values stand within mappings and lists, those within others too."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        yield (*before, key)
        yield from places(value, (*before, key))


def replaced(values: Any, place: Path_, change: Callable[[Any], Any]) -> Any:
    """A copy with another value at a place."""
    values = copy.deepcopy(values)
    inside = functools.reduce(lambda found, key: found[key], place[:-1], values)
    inside[place[-1]] = change(inside[place[-1]])
    return values


def drawn_json(draw: st.DataObject, good: Any) -> Any:
    """JSON values of which one is another, or a list is longer or shorter."""
    place = draw.draw(st.sampled_from(list(places(good))), "place")
    found = functools.reduce(lambda values, key: values[key], place, good)
    longer = [[*found, *found[-1:]], found[:-1]] if isinstance(found, list) else []
    other = draw.draw(st.sampled_from([*longer, *INSTEAD]), "instead")
    return replaced(good, place, lambda _: other)


def drawn_bytes(draw: st.DataObject, good: bytes) -> bytes:
    return mutated(draw.draw(st.randoms(use_true_random=False)), good)


def answer(ask: Callable[[], Any]) -> Any:
    """What was answered; None if it was refused in one line."""
    try:
        return ask()
    except ProjectError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 1_000
        return None


# ---- detectors -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector_path(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of an untrained model with density models of several kinds."""
    values = {"width": 0.125, "latent_dim": 8, "num_embeddings": 16, "n_patches": 2, "epochs": 1}
    trial = Trial(PlannedTrial.whole_batch(TrialConfig.from_flat(values)), tiny_dataset)
    member = Member.of_trial(trial, ("counts", "bigram", "combined"))
    path = tmp_path_factory.mktemp("read_back") / "detector"
    build_detector([member], tiny_dataset, tiny_dataset.held_out, FrontEndConfig()).save(path)
    return path


@pytest.fixture
def damaged_path(detector_path: Path, tmp_path: Path) -> Path:
    return shutil.copytree(detector_path, tmp_path / "detector")


def scored(path: Path) -> Any:
    """A detector's answer for a sound that is a little louder than the mean."""
    detector = Detector.load(path)
    features_TF = np.tile(detector.norm.mean_F + 0.5, (100, 1)).astype(np.float32)
    return detector.score_features(features_TF, "00"), detector.ids, detector.thresholds, detector.limits


@examples(40)
@given(st.data())
def test_what_a_detector_says_of_itself(detector_path: Path, damaged_path: Path, draw: st.DataObject) -> None:
    content = (detector_path / "detector.json").read_bytes()
    good = json.loads(content)
    as_json = draw.draw(st.booleans())
    other = json.dumps(drawn_json(draw, good)).encode() if as_json else drawn_bytes(draw, content)
    (damaged_path / "detector.json").write_bytes(other)
    assert answer(lambda: scored(damaged_path)) in (None, _undamaged(detector_path))


@functools.cache
def _undamaged(path: Path) -> Any:
    return scored(path)


@examples(25)
@given(st.data())
def test_what_a_detector_of_an_earlier_format_says(
    detector_path: Path, damaged_path: Path, draw: st.DataObject
) -> None:
    """It has no digest: what could be true is believed, and judges by numbers."""
    good = json.loads((detector_path / "detector.json").read_bytes())
    del good["digest"]
    other = drawn_json(draw, {**good, "format": 5})
    (damaged_path / "detector.json").write_text(json.dumps(other))
    found = answer(lambda: scored(damaged_path))
    assert found is None or math.isfinite(found[0].score)


@examples(15)
@given(st.data())
def test_what_a_member_of_a_detector_holds(detector_path: Path, damaged_path: Path, draw: st.DataObject) -> None:
    good = torch.load(detector_path / "member-0.pt", weights_only=True)
    place = draw.draw(st.sampled_from(list(places(good))))
    change = draw.draw(st.sampled_from([*map(constant, INSTEAD), with_nan, torch.Tensor.half, flattened]))
    file = io.BytesIO()
    torch.save(replaced(good, place, lambda old: change(old) if isinstance(old, torch.Tensor) else "x"), file)
    (damaged_path / "member-0.pt").write_bytes(file.getvalue())
    content = json.loads((detector_path / "detector.json").read_bytes())
    content["members"] = [hashlib.sha256(file.getvalue()).hexdigest()]
    (damaged_path / "detector.json").write_text(json.dumps({**content, "digest": digest_of(content)}))
    found = answer(lambda: scored(damaged_path))
    assert found is None or math.isfinite(found[0].score)


def constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor.double(), math.nan)


def flattened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten()[:-1]


# ---- profiles and statistics -----------------------------------------------------------------------------------------


@examples(60)
@given(st.data())
def test_a_device_profile(tmp_path: Path, draw: st.DataObject) -> None:
    """A quantity that is accepted is the one in the file, within its range, and is written as it was read."""
    (source,) = PROFILES.glob("*.json")
    other = drawn_json(draw, json.loads(source.read_text()))
    (tmp_path / "profile.json").write_text(json.dumps(other))
    profile = answer(lambda: DeviceProfile.load(tmp_path / "profile.json"))
    if profile is not None:
        assert profile.to_dict() == other
        assert profile.block_bytes >= 1
        numbers = [value for value in profile.to_dict().values() if isinstance(value, int | float)]
        assert all(0 <= number < 1e31 for number in numbers)


@examples(40)
@given(st.data())
def test_normalisation_statistics(tmp_path: Path, draw: st.DataObject) -> None:
    good = {3: {"mean": torch.linspace(-60.0, 0.0, 64), "std": torch.ones(64)}}
    change = draw.draw(st.sampled_from([*map(constant, INSTEAD), with_nan, torch.zeros_like, flattened, torch.neg]))
    place = draw.draw(st.sampled_from([(3,), (3, "mean"), (3, "std")]))
    other = replaced(good, place, lambda old: change(old) if isinstance(old, torch.Tensor) else "x")
    torch.save(other, tmp_path / "stats.pt")
    stats = answer(lambda: load_stats(tmp_path / "stats.pt", "pump"))
    if stats is not None:
        np.testing.assert_array_equal(stats.mean_F, other[3]["mean"].numpy())
        np.testing.assert_array_equal(stats.std_F, other[3]["std"].numpy())
        assert np.isfinite(stats.apply(np.zeros((2, 64), np.float32))).all()


# ---- runs of others --------------------------------------------------------------------------------------------------

SPACE = """
parameters:
  latent_dim: {low: 8, high: 64}
  learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
  distance: {choices: [euclidean, cosine]}
"""


@functools.cache
def _earlier_run() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """Two completed trials with a report each."""
    root = tempfile.TemporaryDirectory(prefix="fuzz-")
    params = [{"latent_dim": size, "learning_rate": 1e-3 * size, "distance": "cosine"} for size in (8, 9)]
    run = RunFolder(old_run(Path(root.name) / "run", *params))
    for number in (0, 1):
        run.append_epoch(number, report(1, 0.9 - 0.1 * number))
    return root, run.path


@examples(40)
@given(st.data())
def test_a_run_that_a_search_begins_with(tmp_path: Path, draw: st.DataObject) -> None:
    template, path = _earlier_run()[1], tmp_path / "run"
    name = draw.draw(st.sampled_from(["manifest.json", "trials/00000/trial.json", "trials/00000/end.json"]))
    shutil.copytree(template, path, dirs_exist_ok=True)
    (path / name).write_text(json.dumps(drawn_json(draw, json.loads((template / name).read_text()))))

    def proposals(run: Path) -> Any:
        return first_proposals([str(run)], space_from_text(SPACE, "new"), portfolio=False).params

    assert answer(lambda: proposals(path)) in (None, proposals(template))


# ---- studies ---------------------------------------------------------------------------------------------------------


@examples(12)
@given(st.data())
def test_the_rows_of_a_study(tmp_path: Path, draw: st.DataObject) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(resumed.content("study.db"))
    table = draw.draw(st.sampled_from(list(ROWS)))
    column = draw.draw(st.sampled_from(ROWS[table]))
    value = draw.draw(st.sampled_from(["RUNNING", "COMPLETE", "PRUNED", "", "x", "[]", "null", 0, 0.123, -1, 10**15]))
    hidden = f"WHERE key NOT IN {FOR_READERS}" if table == "trial_user_attributes" else ""
    with sqlite3.connect(path) as database:
        rows = [row for (row,) in database.execute(f"SELECT rowid FROM {table} {hidden}")]
        row = draw.draw(st.sampled_from(rows))
        try:
            database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
        except sqlite3.IntegrityError:
            return  # the study's own rules forbid it
        finally:
            database.commit()
    database.close()
    assert answer(lambda: known_of(path.read_bytes(), tmp_path)) in (None, _known_undamaged())


@functools.cache
def _known_undamaged() -> Any:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return known_of(resumed.content("study.db"), Path(folder))


def known_of(content: bytes, folder: Path) -> Any:
    """What a search that goes on knows of the trials before it."""
    path = resumed.damaged("study.db", content, folder)
    asked, manifest = resumed.request(path)
    study = SearchStudy.in_folder(asked.folder.study_path, manifest.study_name, manifest.identity)
    try:
        conductor: Conductor = conductor_of(asked.folder, study, asked.space, asked.options)
        trials = [(each.number, each.state, each.values, each.params) for each in study.trials()]
        reports = [each.intermediate_values for each in study.trials()]
        return trials, reports, sorted(conductor.running), str(conductor.asha.rungs)
    finally:
        resumed.close(study)
