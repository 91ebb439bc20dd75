"""``python -m search.plan``: what fits, where the memory goes, and why not."""

import re
from pathlib import Path

import pytest

from search import plan as plan_command
from search.engine.space_draws import draw
from search.plan import COLUMNS, Limits, Planned, main, print_plans
from spaces.loader import load_space
from trainable.commandline import run
from trainable.data.load import Dataset
from trainable.device.budget import Budget, Card
from trainable.host import available_cores
from trainable.memory.planner import Planner
from trainable.memory.predict import DataSizes
from trainable.memory.profile import DeviceProfile
from trainable.units import GIB, MIB, format_bytes

pytestmark = pytest.mark.slow


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_share_and_table_of_a_space(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = planned(capsys, "--space", "ad_smoke", "--gpu-memory-budget", "8GiB", "--samples", "20", "--show", "3")
    assert "20 of 20 sampled configurations fit (100%)" in text
    assert "not measured on a GPU" in text
    for column in (*COLUMNS, "total"):
        assert column in text
    assert len(re.findall("num_embeddings", text)) == 3


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_no_width_cuts_the_answer_off(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    data = DataSizes(train_frames=10_000, test_frames=10_000, train_clips=32, test_clips=16, n_ids=2)
    space = load_space("ad_tuning")
    planned = [
        Planned(params, Planner(data, budget_bytes=budget).plan(space.config(params, epochs=9)))
        for params in draw(space, 2, seed=1)
        for budget in (GIB, 560 * MIB)
    ]
    print_plans(plan_command._console(), planned)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    assert "…" not in shown
    words = re.sub(r"[│\s]+", " ", shown)
    for item in planned:
        assert format_bytes(item.choice.predicted_bytes) in words
    if columns < 200:
        assert planned[0].choice.plan.describe() in words
        assert planned[1].choice.reason in words


def test_flags_take_the_place_of_what_a_space_draws(capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(capsys, "--space", "ad_smoke", "--samples", "2", "--latent-dim", "9")
    assert "all of them with latent_dim 9" in text
    assert text.count("latent_dim") == 1, "no other value is shown"


def test_conditions_follow_the_flags(
    tiny_dataset: Dataset, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that is given decides whether the child is drawn, not one that would have been drawn or fixed."""
    monkeypatch.setattr(plan_command, "_dataset", lambda *_: tiny_dataset)
    path = tmp_path / "space.yaml"
    path.write_text(
        "parameters:\n"
        "  width: {choices: [0.25, 0.5]}\n"
        "  depth: {choices: [1, 2], when: {width: 0.25}}\n"
        "  columns: {choices: [8, 16], when: {n_patches: 2}}\n"
        "fixed: {n_patches: 2, batch_size: 4}\n"
    )
    few = ("--space", str(path), "--samples", "6")
    assert planned(capsys, *few, "--width", "0.25").count("depth") == 6
    text = planned(capsys, *few, "--width", "0.5", "--n-patches", "1")
    assert "depth" not in text
    assert "columns" not in text


def test_budgets_side_by_side_and_the_soonest(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--space", "ad_smoke", "--samples", "4", "--show", "1")
    text = planned(capsys, *few, "--gpu-memory-budget", "400MiB", "610MiB", "2", "--width", "4")
    assert "--gpu-memory-budget 2 means 2 GiB" in text
    rows = [line.split() for line in text.splitlines() if line.strip().endswith("%")]
    assert [row[:2] for row in rows] == [["2.00", "GiB"], ["610", "MiB"], ["400", "MiB"]], "shares alone"
    assert rows[0][2:] == ["100%", "0%", "0%"]
    assert rows[2][2:] == ["0%", "0%", "100%"], "less than any process takes"
    card = ("--gpu-memory", "4GiB")
    assert re.search(r"1.75 GiB +2 .* ×", planned(capsys, *few, "--gpu-memory-budget", "0.5", "0.25", *card))
    text = planned(capsys, *few, "--gpu-memory-budget", "auto", *card)
    chosen = re.search(r"^budget (.*): (\d+) trials a card, .* × as many trials an hour", text, re.MULTILINE)
    assert chosen is not None
    assert int(chosen[2]) > 1
    assert f"a budget of {chosen[1]}: 4 of 4" in text
    assert f"{chosen[1]:>8} {chosen[2]:>14}" in text
    text = planned(capsys, *few, "--gpu-memory-budget", "4GiB", *card)
    assert "--gpu-memory-budget 4GiB is a whole card: 3.50 GiB" in text
    assert "budget 3.50 GiB: 1 trial a card, 100% of proposals unsplit, 0% by a smaller plan, 0% not at all" in text


def test_the_card_is_the_one_given_or_else_the_profiles_or_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    named, given = DeviceProfile(total_bytes=80 * GIB), DeviceProfile(total_bytes=40 * GIB)

    def card_gib(budget: str, profile: DeviceProfile | None = None, card_bytes: int | None = None) -> float | None:
        machine = Limits((Budget.read(budget),), profile, card_bytes).machine(profile or named)
        return None if machine is None else machine.card.total_bytes / GIB

    assert card_gib("8GiB") == 80
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("trainable.device.cap.card_of", lambda _, reserve_bytes: Card(24 * GIB, reserve_bytes))
    assert card_gib("8GiB") == 24
    assert card_gib("8GiB", given) == 40
    assert card_gib("8GiB", given, 16 * GIB) == 16
    machine = Limits((Budget.read("auto"),), None, None).machine(named)
    assert machine is not None
    assert machine.cores == available_cores() / 2
    assert card_gib("100GiB") is None
    assert card_gib("100GiB", given) is None
    assert card_gib("100GiB", given, 16 * GIB) == 16, "refused then: both were given"


def test_the_time_of_an_epoch_is_told_where_the_speed_of_the_card_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = DeviceProfile(flops_per_second=1e14, bytes_per_second=1e12, launch_seconds=5e-5)
    fast.save(tmp_path / "card.json")
    arguments = ("--space", "ad_smoke", "--samples", "2")
    assert " an epoch" not in planned(capsys, *arguments)
    assert re.search(
        r"step, phase 2; 0\.\d+ s an epoch", planned(capsys, *arguments, "--profile", f"{tmp_path}/card.json")
    )


def test_plans_for_a_larger_card_than_the_profiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DeviceProfile(total_bytes=80 * GIB).save(tmp_path / "card.json")
    arguments = ("--space", "ad_smoke", "--samples", "2", "--profile", str(tmp_path / "card.json"))
    text = planned(capsys, *arguments, "--gpu-memory-budget", "100GiB")
    assert "2 of 2 sampled configurations fit" in text
    assert "predicted peak memory on a GPU" in text


def test_one_batch_size_is_split_into_steps(
    tiny_dataset: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_command, "_dataset", lambda *_: tiny_dataset)
    steps = ("--space", "ad_gpu", "--samples", "1", "--gradient-accumulation-steps", "4")
    assert "100%  8 clips" in planned(capsys, *steps, "--batch-size", "32")


def test_says_why_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--samples", "5", "--show", "1", "--width", "8", "--gpu_memory_budget", "580MiB")
    text = " ".join(planned(capsys, "--space", "ad_smoke", *given).split())
    assert "0 of 5 sampled configurations fit (0%)" in text
    assert "even with its" in text


def test_one_configuration_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.yaml").write_text("config: {width: 0.25, n_patches: 2}\ndata: {machine_type: pump}\n")
    text = planned(capsys, "--config", str(tmp_path / "best.yaml"), "--latent-dim", "32", "--smallest-plan")
    assert "latent_dim 32" in text
    assert re.search(r"\b1 clips", text)


def test_the_memory_saver_plans_the_whole_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.yaml").write_text("config: {width: 0.25, n_patches: 2, batch_size: 8}\n")
    text = planned(capsys, "--config", str(tmp_path / "best.yaml"), "--memory_saver")
    assert "8 clips, recompute enc+dec, chunk 16384, device, amp_bfloat16" in " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--space"),
        (("--config", "x.yaml", "--show", "3"), "--show is for the sample of a --space"),
        (("--recalibrate", "x", "--latent-dim", "3"), "--latent-dim changes nothing with --recalibrate"),
        (("--recalibrate", "x", "--use-amp"), "--use-amp changes nothing"),
        (("--space", "ad_smoke", "--config", "x.yaml"), "either"),
        (("--space", "ad_smok"), "ad_smoke"),
        (("--space", "ad_smoke", "--samples", "0"), "--samples"),
        (("--space", "ad_smoke", "--gpu-memory-budget", "8GB"), "GB"),
        (("--space", "ad_smoke", "--gpu-memory-budget", "10MiB"), "budget"),
        (("--space", "ad_smoke", "--profile", "nowhere.json"), "nowhere.json"),
        (("--space", "ad_smoke", "--gpu-memory-budget", "auto"), "auto depends on the card, and none is known here"),
        (("--space", "ad_smoke", "--gpu-memory-budget", "0.5"), "0.5 depends on the card"),
        (("--space", "ad_smoke", "--gpu-memory-budget", "auto", "2GiB"), "auto compares budgets by itself"),
        (("--space", "ad_smoke", "--gpu-memory", "8GiB"), "--gpu-memory changes nothing without"),
        (("--config", "recipe", "--gpu-memory-budget", "2GiB", "4GiB"), "with --config give one"),
        (("--space", "ad_gpu", "--gradient-accumulation-steps", "4"), "but the space searches batch_size"),
        (
            ("--space", "ad_smoke", "--gpu-memory-budget", "9GiB", "--gpu-memory", "8GiB"),
            "does not fit a GPU of 8.00 GiB",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_every_part_of_a_prediction_has_its_column() -> None:
    data = DataSizes(train_frames=10_000, test_frames=10_000, train_clips=32, test_clips=16, n_ids=2)
    planner = Planner(data, budget_bytes=None)
    space = load_space("ad_tuning")
    columns = {part for parts in COLUMNS.values() for part in parts}
    for params in draw(space, 8, seed=1):
        config = space.config(params, epochs=1_000)
        for plan in planner.candidates(config):
            assert set(planner.predict(config, plan).breakdown) <= columns


def test_plans_the_space_that_the_search_runs(
    tiny_dataset: Dataset, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips of 141 frames have three windows at stride 32: eight patches are never trained, and so not planned."""
    monkeypatch.setattr(plan_command, "_dataset", lambda *_: tiny_dataset)
    path = tmp_path / "space.yaml"

    def peaks(n_patches: int, *flags: str) -> str:
        fixed = f"{{stride: 32, width: 0.25, batch_size: 4, n_patches: {n_patches}}}"
        path.write_text(f"parameters: {{learning_rate: {{low: 1.0e-4, high: 1.0e-3}}}}\nfixed: {fixed}\n")
        printed = planned(capsys, "--space", str(path), "--samples", "1", *flags)
        return next(line for line in printed.splitlines() if line.startswith("predicted peaks"))

    assert peaks(8) == peaks(3)
    assert peaks(8, "--n-patches", "1") == peaks(1) != peaks(3), "a flag stands in place of what the space fixes"


def test_a_name_is_planned_as_a_gpu_would_search_it_and_a_file_as_it_is(
    tiny_dataset: Dataset, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_command, "_dataset", lambda *_: tiny_dataset)
    first, share, *_ = planned(capsys, "--space", "ad_tuning", "--samples", "1").splitlines()
    assert first.startswith("space ad_tuning: a plan is for a GPU, where ad_gpu is searched")
    assert share.startswith("space ad_gpu, no budget: 1 of 1")
    (tmp_path / "mine.yaml").write_text(load_space("ad_tuning").text)
    assert planned(capsys, "--space", str(tmp_path / "mine.yaml"), "--samples", "1").startswith("space mine, no budget")
