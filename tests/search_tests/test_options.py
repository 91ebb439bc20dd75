"""Options of a search, validated at the door."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from search.flags import build_parser, given_options
from search.options import SearchOptions
from search.request import read_request
from trainable.config import DataConfig
from trainable.errors import BudgetError, ConfigError, ProjectError
from trainable.memory.profile import DeviceProfile


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_samples": 0}, "--num-samples is 0; it must be an integer in 1 … 1000000"),
        ({"num_samples": 2.5}, "--num-samples is 2.5"),
        ({"num_samples": True}, "--num-samples is True"),
        ({"max_epochs": -1}, "--max-epochs is -1"),
        ({"grace_period": 0}, "--grace-period is 0"),
        ({"reduction_factor": 1}, "--reduction-factor is 1; it must be an integer in 2 … 1000"),
        ({"concurrency": 0}, "--concurrency is 0"),
        ({"seed": -1}, "--seed is -1; it must be an integer in 0 … 2147483647"),
        ({"max_failures": -1}, "--max-failures is -1"),
        ({"gradient_accumulation_steps": 0}, "--gradient-accumulation-steps is 0"),
        ({"startup_trials": 0}, "--startup-trials is 0"),
        ({"time_limit_seconds": 0.0}, "--time-limit is 0 s; it must be greater than zero"),
        ({"time_limit_seconds": -5.0}, "--time-limit is -5 s"),
        ({"time_limit_seconds": float("nan")}, "--time-limit is nan s"),
        ({"time_limit_seconds": float("inf")}, "--time-limit is inf s"),
        ({"local": True, "address": "auto"}, "--local runs in this process and --address joins a cluster"),
        (
            {"sampler": "tep"},
            "--sampler is 'tep'; there are tpe, random, and others where AD_EXTENSIONS names the module",
        ),
        ({"sampler": "tep"}, "did you mean 'tpe'?"),
        ({"device": "gpu"}, "--device is 'gpu'; it must be cpu, cuda,"),
        ({"device": "cuda:1"}, "--device cuda:1 names one GPU, which takes --local; without it, use cuda"),
        ({"memory_saver": True, "use_amp": False}, "--memory-saver switches mixed precision on and --no-use-amp"),
        ({"listeners": ("mine",)}, "--listener is 'mine'; there are none yet, and others"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_flag(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchOptions(space="ad_smoke", **values)
    assert message in str(caught.value)


@pytest.mark.parametrize("budget_bytes", [0, -1])
def test_a_budget_is_positive(budget_bytes: int) -> None:
    with pytest.raises(BudgetError, match=f"--gpu-memory-budget is {budget_bytes} bytes; it must be greater") as caught:
        SearchOptions(space="ad_smoke", budget_bytes=budget_bytes)
    assert isinstance(caught.value, ProjectError)


@pytest.mark.parametrize(("samples", "startup"), [(1, 4), (12, 4), (20, 6), (30, 10), (1000, 10)])
def test_a_third_of_the_trials_are_random_between_4_and_10(samples: int, startup: int) -> None:
    assert SearchOptions(space="x", num_samples=samples).startup == startup
    assert SearchOptions(space="x", num_samples=samples, startup_trials=7).startup == 7


def test_one_trial_at_a_time_in_this_process_unless_asked() -> None:
    assert SearchOptions(space="x", local=True).workers == 1
    assert SearchOptions(space="x", local=True, concurrency=3).workers == 3
    assert SearchOptions(space="x").workers >= 1


def test_a_manifest_holds_the_options_but_no_password() -> None:
    options = SearchOptions(
        space="x", study_storage="postgresql://bob:hunter2@db/ad", data=DataConfig(machine_type="pump")
    )
    text = json.dumps(options.to_dict())
    assert "hunter2" not in text
    assert json.loads(text)["data"]["machine_type"] == "pump"
    assert json.loads(text)["num_samples"] == 20


def test_a_profile_is_checked_at_the_door_and_survives_the_manifest() -> None:
    profile = DeviceProfile(name="a card", context_bytes=123)
    options = SearchOptions(space="x", profile=profile.to_dict())
    saved = json.loads(json.dumps(options.to_dict()))
    assert DeviceProfile.from_dict(saved["profile"]) == profile
    with pytest.raises(ConfigError, match="contexts"):
        SearchOptions(space="x", profile={"contexts": 1})


def test_the_flag_takes_what_the_file_says(tmp_path: Path) -> None:
    profile = DeviceProfile(name="a card", reserve_bytes=7)
    profile.save(tmp_path / "profile.json")
    given = given_options(build_parser().parse_args(["--profile", str(tmp_path / "profile.json")]))
    assert given == {"profile": profile.to_dict()}
    with pytest.raises(ConfigError, match="nowhere"):
        given_options(build_parser().parse_args(["--profile", "nowhere.json"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--n-trials 3", "unknown flag --n-trials (did you mean --num-samples?)"),
        ("--epochs 3", "unknown flag --epochs (did you mean --max-epochs?)"),
        ("--latent_dim 3", "unknown flag --latent-dim: a search takes latent_dim from its space"),
        ("--space ad_smoke --gpu-memory-budget 24GB", "--gpu-memory-budget '24GB' has the unit 'GB'; use one of"),
        ("--space ad_smoke --time-limit 1h30", "--time-limit is '1h30'"),
        ("--space ad_smoke --allow-changes", "--allow-changes is for a search that is resumed"),
        ("--space ad_smoke --sampler random --startup-trials 4", "--startup-trials changes nothing with --sampler"),
        ("--resume run --dry-run", "--dry-run and --resume cannot be combined"),
    ],
)
def test_a_command_line_is_refused_before_anything_is_read(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_request(build_parser().parse_args(words.split()), tuple(words.split()))


def test_a_listener_may_be_named_again_or_in_a_row() -> None:
    arguments = build_parser().parse_args(["--listener", "a", "b", "--listener", "a", "c"])
    assert given_options(arguments) == {"listeners": ("a", "b", "c")}
