"""The train command, as a user runs it."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainable_tests.recording_trees import write_tree
from trainable import train
from trainable.commandline import data_config, run
from trainable.config import TrialConfig
from trainable.training.checkpoint import list_checkpoints
from trainable.training.phases import commitment_scale

TINY = ["--width=0.25", "--latent_dim=4", "--head-hidden=8", "--num_embeddings=8", "--batch_size=4", "--n_patches=1"]
TINY += ["--stride", "16", "--density", "counts", "--device", "cpu"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train") / "data"
    write_tree(root, "spindle")
    return root


def data(root: Path) -> list[str]:
    return ["--data_root", str(root), "--machine_type", "spindle"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trainable.train", *TINY, *arguments]


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors, without the seconds that a new process takes."""
    status = run(train.main, [*TINY, *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def aucs(output: str) -> list[tuple[str, str]]:
    return re.findall(r"epoch +(\d+)/.*  AUC (\S+)", output)


@pytest.mark.slow
def test_a_command_line_trains_one_configuration(recordings: Path, tmp_path: Path) -> None:
    flags = ["--epochs=2", "--gradient_accumulation_steps", "2", "--use-gradient-checkpointing", "--held-out"]
    done = subprocess.run(
        command(*data(recordings), *flags, "--output", str(tmp_path)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    table, _, rest = done.stdout.partition("spindle: ")
    assert table.splitlines()[1].split()[:4] == ["train", "00", "normal", "3"]
    lines = rest.splitlines()
    assert lines[0] == "6 training clips, 4 validation clips, 2 machine ids; 0 recordings skipped"
    assert lines[1].startswith("plan: 2 clips, recompute enc+dec, ")
    assert [epoch for epoch, _ in aucs(done.stdout)] == ["1", "2"]
    assert re.match(r"held-out AUC [01]\.\d+ \(95 % interval .* … .*; 2 normal, 2 anomalous clips\), pAUC ", lines[-3])
    assert lines[-2] == "mind: only 2 normal and 2 anomalous clips judge: the interval says little; add some"
    assert lines[-1] == f"saved: {tmp_path}/checkpoints/epoch-000002.ckpt"
    assert list(list_checkpoints(tmp_path / "checkpoints")) == [1, 2]


def test_training_goes_on_from_the_newest_checkpoint(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*data(recordings), "--epochs=3", "--output", str(tmp_path)]
    status, whole, _ = in_process(capsys, *arguments)
    assert status == 0
    checkpoints = list_checkpoints(tmp_path / "checkpoints")
    checkpoints[3].unlink()
    status, rest, _ = in_process(capsys, *arguments)
    assert status == 0
    assert "continuing from epoch 2" in rest
    assert aucs(rest) == aucs(whole)[2:]
    status, nothing, _ = in_process(capsys, *arguments)
    assert (status, aucs(nothing)) == (0, [])
    status, _, error = in_process(capsys, *arguments, "--learning-rate", "0.1")
    assert status == 2
    assert "differs in learning_rate" in error
    status, _, error = in_process(capsys, *data(recordings), "--epochs=4", "--output", str(tmp_path))
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith("error: the training in --output ")
    assert "differs in epochs; give the settings that it was started with (--epochs too), or another --output" in error
    for path in checkpoints.values():
        path.write_bytes(b"damaged")
    assert "or another --output" in in_process(capsys, *arguments)[2]


def test_what_a_killed_training_left_half_written_is_swept_away(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leftover = tmp_path / "checkpoints/.epoch-000001.ckpt.99.tmp"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    (leftover.parent / "notes.txt").write_text("mine")
    status, output, error = in_process(capsys, *data(recordings), "--epochs=1", "--output", str(tmp_path))
    assert (status, error) == (0, "")
    assert "continuing" not in output
    names = {path.name for path in leftover.parent.iterdir()}
    assert names == {"epoch-000001.ckpt", "notes.txt"}


def test_paths_mean_the_same_from_another_folder(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(recordings)
    flags = ["--data_root", ".", "--norm-stats-path", "stats.pt"]
    config = data_config(train.build_parser().parse_args(flags))
    assert config.data_root == str(recordings)
    assert config.norm_stats_path == str(recordings / "stats.pt")
    monkeypatch.setenv("HOME", str(recordings))
    config = data_config(train.build_parser().parse_args(["--data-root", "~"]), {"norm_stats_path": "as/it/was"})
    assert (config.data_root, config.norm_stats_path) == (str(recordings), "as/it/was")


def test_best_yaml_is_trained_and_flags_go_over_it(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = tmp_path / "best.yaml"
    best.write_text(f"config: {{epochs: 2, seed: 5}}\ndata: {{data_root: {recordings}, machine_type: spindle}}\n")
    status, first, error = in_process(capsys, "--config", str(best))
    assert (status, error) == (0, "")
    assert [epoch for epoch, _ in aucs(first)] == ["1", "2"]
    assert first.splitlines()[-1] == "nothing was saved; give --output DIR to keep what is trained"
    assert in_process(capsys, "--config", str(best), "--epochs", "1")[1].count("epoch") == 1


def test_a_preset_is_trained_by_its_name(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, error = in_process(capsys, *data(recordings), "--config", "recipe", "--epochs", "1")
    assert (status, error) == (0, "")
    assert [epoch for epoch, _ in aucs(output)] == ["1"]
    status, _, error = in_process(capsys, "--config", "recipee")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(
        "error: there is no preset 'recipee'; did you mean 'recipe'?; there are detector, recipe, or name"
    )


def test_the_recipe_is_what_its_page_says() -> None:
    config = TrialConfig.from_flat(train.read_config_file("recipe")[0])
    assert (config.quantizer.num_embeddings, config.model.latent_dim, config.quantizer.ema_decay) == (128, 64, 0.99)
    assert (config.patch.batch_size, config.patch.n_patches, config.patch.stride) == (32, 16, 16)
    assert (config.model.stem, config.score.density) == ("full", "counts")
    assert [commitment_scale(config, epoch) for epoch in (0, 1, 5)] == pytest.approx([0.25, 0.4, 1.0])


@pytest.mark.slow
def test_ctrl_c_leaves_what_was_done(recordings: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(*data(recordings), "--epochs=10000", "--output", str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("epoch   2"):
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()  # however long that takes: the test's own limit ends it
    finally:
        process.kill()
    assert (process.returncode, error) == (130, "stopped by Ctrl-C\n")
    newest = max(list_checkpoints(tmp_path / "checkpoints"))
    assert newest >= 1
    assert not list((tmp_path / "checkpoints").glob(".*"))


def nan_clip(root: Path) -> None:
    for path in (root / "spindle/train").iterdir():
        np.save(path, np.full((80, 64), np.nan))


def wrong_shape(root: Path) -> None:
    for path in (root / "spindle/train").iterdir():
        np.save(path, np.zeros((63, 80)))


def no_anomalies(root: Path) -> None:
    for path in (root / "spindle/test").glob("anomaly*"):
        path.unlink()


def nothing(root: Path) -> None:
    """The data stays as it is."""


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (nothing, ["--data_root", "/nowhere/at/all"], "data root /nowhere/at/all does not exist"),
        (nothing, ["--machine_type", "spindel"], "holds no machine type 'spindel'; did you mean 'spindle'?"),
        (
            nan_clip,
            [],
            "are unusable, more than 20%: repair or remove them (docs/data.md says what is accepted); the first: ",
        ),
        (wrong_shape, [], "has the shape (63, 80); 64 × T or T × 64 is needed"),
        (no_anomalies, ["--objective", "labels"], "an AUC needs normal and anomalous test clips"),
        (
            nothing,
            ["--norm-stats-path", "{root}/spindle"],
            "cannot be read (Is a directory); what torch.save wrote of",
        ),
        (nothing, ["--norm-stats-path", "{root}/empty"], "; name another file with --norm-stats-path"),
        (nothing, ["--norm-stats-path", "{root}/file.txt/x.pt"], "cannot be saved as "),
        (
            nothing,
            ["--norm-stats-path", "{root}/file.txt/x.pt"],
            "may write to with --norm-stats-path, or leave it out",
        ),
        (nothing, ["--norm-stats-path", "{root}/a\0b"], "may write to with --norm-stats-path, or leave it out"),
        (nothing, ["--gpu-memory-budget=-1GiB"], "--gpu-memory-budget '-1GiB' is not a positive number with a unit"),
        (nothing, ["--gpu-memory-budget", "0"], "--gpu-memory-budget '0' must be greater than zero"),
        (nothing, ["--gpu-memory-budget", "nan"], "--gpu-memory-budget 'nan' is not a positive number"),
        (nothing, ["--gpu-memory-budget", "24GB"], "use one of B, KiB, MiB, GiB, TiB"),
        (nothing, ["--gpu-memory-budget", "1MiB"], "give a larger --gpu-memory-budget"),
        (nothing, ["--gradient-accumulation-steps", "5"], "it must be one of 1, 2, 4"),
        (nothing, ["--num_embeddings", "1"], "num_embeddings is 1; it must be in 2 … 65536"),
        (nothing, ["--validation-share", "1.5"], "validation_share is 1.5"),
        (nothing, ["--device", "tpu3"], "--device"),
        (nothing, ["--device", "meta"], "it must be cpu, cuda,"),
        (
            nothing,
            ["--config", "{root}/absent.yaml"],
            "absent.yaml cannot be read: No such file or directory; name a file",
        ),
        (nothing, ["--config", "{root}"], "cannot be read"),
        (nothing, ["--output", "{root}/file.txt"], "cannot be used: "),
        (nothing, ["--output", "{root}/file.txt/below"], "cannot be used: Not a directory"),
        (nothing, ["--output", "/proc/nothing"], "cannot be used: "),
        (nothing, ["--output", ""], "--output is empty; give it a value or leave it out"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    arguments: list[str],
    message: str,
) -> None:
    root = tmp_path / "data"
    write_tree(root, "spindle")
    (root / "file.txt").write_text("in the way")
    (root / "empty").touch()
    spoil(root)
    status, output, error = in_process(
        capsys, *data(root), "--epochs=1", *(each.format(root=root) for each in arguments)
    )
    assert (status, output) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = in_process(capsys, *data(recordings), "--device", "cuda:1")
    assert status == 2
    assert "--device cuda:1: torch sees no CUDA device on this machine; use --device cpu" in error


@pytest.mark.parametrize("text", ["", "config: 3\n", "[1, 2]", "config: {a: [", "config: {epochs: 2}\ndata: 3\n", "\0"])
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(text)
    status, _, error = in_process(capsys, "--config", str(path))
    assert status == 2
    assert error.startswith(f"error: --config {path}")
    assert error.count("\n") == 1


def test_a_divergence_is_an_error_of_one_line(
    recordings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainable.errors import NonFiniteError
    from trainable.trial import Trial

    def diverge(self: Trial) -> None:
        raise NonFiniteError("loss is nan")

    monkeypatch.setattr(Trial, "step", diverge)
    status, _, error = in_process(capsys, *data(recordings), "--epochs", "2")
    assert status == 2
    assert error == "error: training diverged after epoch 0: loss is nan; lower --learning-rate\n"
