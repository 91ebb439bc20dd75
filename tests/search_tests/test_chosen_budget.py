"""A search's budget in bytes, by what was asked for and what its trials run on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from search.chosen_budget import with_budget
from search.flags import build_parser
from search.request import Request, read_request
from search.runners.packing import Node
from search.runners.ray_session import RaySession
from tests.trainable_tests.fake_cuda import fake_cuda
from trainable.errors import ConfigError
from trainable.host import available_cores
from trainable.memory.planner import Planner
from trainable.memory.predict import DataSizes
from trainable.memory.profile import DeviceProfile
from trainable.units import GIB, MIB

DATA = DataSizes(train_frames=10_000, test_frames=10_000, train_clips=64, test_clips=16, n_ids=2)
PROFILE = DeviceProfile(reserve_bytes=GIB)
CARDS = RaySession(None, (Node("a", 8, 1, 9 * GIB), Node("b", 64, 2, 80 * GIB), Node("c", 64, 0, 0)))


def request(*words: str) -> Request:
    words = ("--space", "ad_smoke", *words)
    return read_request(build_parser().parse_args(words), words)


def budget_of(
    asked: Request, device: str, ray: RaySession | None = None, profile: DeviceProfile = PROFILE
) -> int | None:
    planner = Planner(DATA, budget_bytes=None, profile=profile)
    console = Console(width=200, highlight=False)
    return with_budget(asked, asked.space, planner, device, ray, console).options.budget_bytes


def test_on_a_cpu_a_size_is_planned_for_and_auto_is_none() -> None:
    assert budget_of(request(), "cpu") is None
    assert budget_of(request("--gpu-memory-budget", "auto"), "cpu") is None
    assert budget_of(request("--gpu-memory-budget", "2"), "cpu") == 2 * GIB
    with pytest.raises(ConfigError, match=r"0\.25 is a share of a GPU, and none is known here"):
        budget_of(request("--gpu-memory-budget", "0.25"), "cpu")
    known = replace(PROFILE, total_bytes=9 * GIB)
    assert budget_of(request("--gpu-memory-budget", "0.25"), "cpu", profile=known) == 2 * GIB
    assert budget_of(request(), "cpu", profile=known) is None


def test_trials_that_take_turns_have_the_whole_card(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_cuda(8 * GIB):
        assert budget_of(request("--local"), "cuda") == 7 * GIB
        assert budget_of(request("--local", "--gpu-memory-budget", "8GiB"), "cuda") == 7 * GIB
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "one trial at a time has a whole card: 7.00 GiB (a GPU of 8.00 GiB less a reserve of 1.00 GiB)"
    assert said[1].startswith("--gpu-memory-budget 8GiB is a whole card: 7.00 GiB")


def test_on_a_cluster_the_soonest_on_the_smallest_card_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = budget_of(request("--address", "auto", "--num-samples", "12"), "cuda", CARDS)
    assert chosen == 2 * GIB, "four trials for each of three cards, of which the smallest has 8 GiB for budgets"
    printed = capsys.readouterr().out
    assert "on 8.00 GiB (a GPU of 9.00 GiB less a reserve of 1.00 GiB) and 8 CPU cores" in printed
    assert "budget 2.00 GiB: 4 trials a card, 100% of proposals unsplit" in printed
    quietly = request("--address", "auto", "--num-samples", "12", "--gpu-memory-budget", "auto", "--quiet")
    assert budget_of(quietly, "cuda", CARDS) == chosen
    assert capsys.readouterr().out == ""
    assert budget_of(request("--gpu-memory-budget", "0.5"), "cuda", CARDS) == 4 * GIB


def resumed(begun: Request, *words: str, budget_bytes: int | None = None) -> Request:
    """A resume of a run that had begun, whose budget was `budget_bytes` on the cards of then."""
    options = {**begun.options.to_dict(), "budget_bytes": budget_bytes or begun.options.budget_bytes}
    return replace(request(*words), resumed=SimpleNamespace(options=options))  # type: ignore[arg-type]


def test_a_resumed_run_keeps_its_budget_on_any_card(capsys: pytest.CaptureFixture[str]) -> None:
    begun = request("--gpu-memory-budget", "700MiB")
    for words in ((), ("--gpu-memory-budget", "auto"), ("--gpu-memory-budget", "700MiB")):
        assert budget_of(resumed(begun, *words), "cuda", CARDS) == 700 * MIB
    assert capsys.readouterr().out == "the run keeps its budget: 700 MiB\n"
    half = request("--gpu-memory-budget", "0.5")
    again = resumed(half, "--gpu-memory-budget", "0.5", budget_bytes=3 * GIB)
    assert budget_of(again, "cuda", CARDS) == 3 * GIB, "the same words as on the cards of then"
    assert budget_of(resumed(begun, "--gpu-memory-budget", "0.5"), "cuda", CARDS) == 4 * GIB


def test_a_card_for_a_display_decides_nothing() -> None:
    with_display = RaySession(None, (Node("a", 8, 1, 9 * GIB), Node("d", 8, 1, GIB + 256 * MIB)))
    assert budget_of(request("--gpu-memory-budget", "0.5"), "cuda", with_display) == 4 * GIB


def test_cores_of_this_machine_are_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    told_of_more = RaySession(None, (Node("a", 4096, 1, 9 * GIB),))
    budget_of(request("--concurrency", "4096", "--num-samples", "2"), "cuda", told_of_more)
    assert f" and {available_cores()} CPU cores" in capsys.readouterr().out
