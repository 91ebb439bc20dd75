"""The command ``python -m search.run``: whole searches on tiny recordings, and every kind of bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from search.run import main
from tests.analysis_tests.trained import write_recordings
from trainable.commandline import run
from trainable.detection.detector import Detector
from trainable.errors import RunError
from trainable.record import RunFolder, TrialEnd

SPACE = """
parameters:
  num_embeddings: {choices: [4, 8]}
  learning_rate: {low: 1.0e-3, high: 1.0e-2, log: true}
fixed:
  width: 0.25
  latent_dim: 4
  batch_size: 4
  n_patches: 1
  stride: 32
  head_hidden: 8
  density: counts
search: {num_samples: 4, max_epochs: 3, grace_period: 1, reduction_factor: 3}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("machines"), machine_type="press")


@pytest.fixture
def arguments(machine: Path, tmp_path: Path) -> list[str]:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    return ["--space", str(space), "--data-root", str(machine), "--machine-type", "press", "--local"]


def table(path: Path) -> list[tuple]:
    return [
        (record.start.params, record.outcome, [report.validation_auc for report in record.epochs])
        for record in RunFolder(path).read_trials()
    ]


@pytest.mark.slow
def test_folders_whose_names_are_no_utf_8_serve_as_any_other(tmp_path, machine, monkeypatch):
    """Recordings, run, report and detector below a folder of an old archive, printed to a strict UTF-8."""
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    root = tmp_path / "r\udce9n"
    shutil.copytree(machine, root / "data")
    (tmp_path / "space.yaml").write_text(SPACE)

    def command(module, *words):
        done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        return done.stdout

    recordings = ["--data-root", str(root / "data"), "--machine-type", "press"]
    short = ["--num-samples", "1", "--max-epochs", "1"]
    searched = ["--space", str(tmp_path / "space.yaml"), *recordings, "--local", *short]
    shown = command("search.run", *searched, "--output", str(root / "run"))
    assert os.fsencode(f"reading the recordings: press of {root}/data") in shown
    assert os.fsencode(root / "run/report.html") in command("analysis.report", "--no-model", str(root / "run"))
    assert "r\N{REPLACEMENT CHARACTER}n" in (root / "run/report.html").read_text(encoding="utf-8")
    clip = next((root / "data/press/test").iterdir())
    assert os.fsencode(clip) in command("trainable.score", "--model", str(root / "run/detector"), str(clip))


def test_a_search_ends_with_a_best_configuration_that_train_takes(arguments, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "4 trials:" in shown
    assert "held-out AUC" in shown
    assert "log-mel Mahalanobis 1.000, TWFR + Gaussian 1.000" in " ".join(shown.replace("│", " ").split())
    assert "does not beat the yardsticks" in " ".join(shown.replace("│", " ").split())
    assert json.loads((tmp_path / "run/summary.json").read_text())["best"]["beats_yardsticks"] is False
    best = yaml.safe_load((tmp_path / "run/best.yaml").read_text())
    detector = Detector.load(tmp_path / "run/detector")
    assert [(pair["trial"], pair["density"]) for pair in best["result"]["members"]] == [
        (each["trial"], each["density"]) for each in detector.made["members"]
    ]
    assert best["result"]["detector_held_out_auc"] == detector.made["held_out_auc"]
    assert f"python -m trainable.score --model {tmp_path / 'run/detector'} FILES" in shown
    assert best["config"]["num_embeddings"] in (4, 8)
    assert f"{best['result']['validation_auc']:.3f}" in shown
    from trainable.train import main as train

    assert train(["--config", str(tmp_path / "run/best.yaml"), "--epochs", "1"]) == 0
    assert "epoch   1/1" in capsys.readouterr().out


def test_a_dry_run_says_what_would_run_and_leaves_nothing(arguments, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    elsewhere = ["--storage-path", str(tmp_path / "checkpoints"), "--output", str(tmp_path / "run")]
    assert main([*arguments, *elsewhere, "--dry-run", "--gpu-memory-budget", "1GiB", "--time-limit", "1h30m"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "reading the recordings: press" in shown
    assert "4 trials of up to 3 epochs, 12 in all at most; the best 1/3 continue after epoch 1" in shown
    assert "1 at a time on cpu, 1.00 GiB each; until 1 h 30 min have passed" in shown
    assert "16 of 16 sampled configurations fit" in shown
    assert "estimated memory of 1 trial at a time" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "space.yaml"]
    assert not any((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [("file", "is a file; name a folder"), ("file/run", "is a file; name a folder"), ("full", "is not empty")],
)
def test_a_dry_run_refuses_the_output_that_a_search_would_refuse(name, message, arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("")
    assert run(main, [*arguments, "--dry-run", "--output", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_a_budget_that_holds_no_trial_is_refused_before_ray_starts(arguments, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("search.runners.ray_session.ray_session", lambda *_, **__: pytest.fail("started Ray"))
    on_ray = [word for word in arguments if word != "--local"]
    assert run(main, [*on_ray, "--dry-run", "--gpu-memory-budget", "100MiB"]) == 2
    assert "a budget of 100 MiB is less than the 544 MiB" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_missed_before_recordings_are_read_and_ray_starts(arguments, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("search.session.load_dataset", lambda *_: pytest.fail("read recordings"))
    on_ray = [word for word in arguments if word != "--local"]
    for given in (arguments, on_ray):
        assert run(main, [*given, "--device", "cuda", "--dry-run"]) == 2
        assert "--device cuda: torch sees no CUDA device on this machine" in capsys.readouterr().err


def test_flags_come_from_a_file_that_the_manifest_names(arguments, tmp_path):
    (tmp_path / "options.yaml").write_text("num-samples: 3\nmax-epochs: 1\nquiet: true\nsampler: random\n")
    given = [*arguments, "--options", str(tmp_path / "options.yaml"), "--num-samples", "1"]
    assert main([*given, "--output", str(tmp_path / "run")]) == 0
    manifest = RunFolder(tmp_path / "run").read_manifest()
    assert (manifest.num_samples, manifest.max_epochs, manifest.options["sampler"]) == (1, 1, "random")
    assert f"--options {tmp_path / 'options.yaml'} --num-samples 1" in manifest.command


def test_same_seed_twice_gives_the_same_table_and_another_seed_another(arguments, tmp_path):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        main([*arguments, "--seed", seed, "--quiet", "--output", str(tmp_path / name)])
    assert table(tmp_path / "a") == table(tmp_path / "b")
    assert table(tmp_path / "a") != table(tmp_path / "c")


def signalled(arguments: list[str], run_path: Path, first_files: str, *signals: signal.Signals) -> tuple[int, str]:
    """Exit status and standard error of a search that gets the signals once the files are there."""
    command = [sys.executable, "-m", "search.run", *arguments, "--output", str(run_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not list(run_path.glob(first_files)):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        for each in signals:
            process.send_signal(each)
        _, message = process.communicate()  # however long that takes: the test's own limit ends it
    finally:
        process.kill()
    return process.returncode, message


def test_resume_after_ctrl_c_loses_and_repeats_nothing(arguments, tmp_path):
    main([*arguments, "--quiet", "--output", str(tmp_path / "whole")])
    status, message = signalled(arguments, tmp_path / "cut", "trials/00001/epochs.jsonl", *[signal.SIGINT] * 2)
    assert status == 130
    assert f"resume with: python -m search.run --resume {tmp_path / 'cut'}" in message
    assert "Traceback" not in message
    assert main(["--resume", str(tmp_path / "cut"), "--quiet"]) == 0
    assert table(tmp_path / "cut") == table(tmp_path / "whole")
    assert RunFolder(tmp_path / "cut").read_manifest().history[0]["changes"] == []


def test_a_search_whose_reader_went_away_says_how_to_go_on(arguments, tmp_path):
    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "search.run", *arguments, "--output", str(cut)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not process.stdout.readline().startswith("trial 0"):
            assert process.poll() is None, process.stderr.read()
        process.stdout.close()
        message = process.stderr.read()
    assert process.returncode == 141
    assert "\nstopped because standard output cannot be written: Broken pipe after " in message
    assert message.endswith(f" resume with: python -m search.run --resume {cut}\n")
    assert main(["--resume", str(cut), "--quiet"]) == 0


def test_a_folder_that_is_removed_in_mid_search_is_one_line(arguments, tmp_path, monkeypatch):
    append = RunFolder.append_epoch

    def removed_before(folder, *given):
        shutil.rmtree(folder.path)
        append(folder, *given)

    monkeypatch.setattr(RunFolder, "append_epoch", removed_before)
    with pytest.raises(RunError, match=r"cannot be written: its folder was removed meanwhile"):
        main([*arguments, "--quiet", "--output", str(tmp_path / "run")])


@pytest.mark.slow
def test_sigterm_ends_a_search_on_ray_like_ctrl_c_and_leaves_nothing_in_the_temporary_folder(arguments, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as short:  # pytest's folders are too long for Ray
        monkeypatch.setenv("TMPDIR", short)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S3cr3tOnRay")  # Ray Tune would pass it on where all can read it
        on_ray = [word for word in arguments if word != "--local"]
        cut = Path(short) / "cut"
        status, message = signalled(on_ray, cut, "trials/*/epochs.jsonl", signal.SIGTERM)
        assert status == 143
        assert re.search(rf"\nstopped by SIGTERM after \d+ s; .* resume with: .* --resume {cut}\n$", message)
        assert "Traceback" not in message
        assert "***" not in message  # how Ray's own handler begins its stack trace
        assert not [*Path(short).glob("pymp-*"), *Path(short).glob("search-*")]
        logs = [path for path in Path(short).glob("ray/session_2*/logs/**/*") if path.is_file()]
        assert logs
        assert not [path for path in logs if b"S3cr3tOnRay" in path.read_bytes()]
        unfinished = [record for record in RunFolder(cut).read_trials() if record.outcome is None]
        assert unfinished
        assert main(["--resume", str(cut), "--local", "--quiet"]) == 0
        assert len(table(cut)) == 4


def test_a_time_limit_leaves_trials_unfinished_and_a_resume_has_none(arguments, tmp_path, capsys):
    cut = tmp_path / "cut"
    long = ["--max-epochs", "10000", "--grace-period", "10000"]
    assert main([*arguments, *long, "--time-limit", "1s", "--output", str(cut)]) == 1
    assert "the time limit of 1 s was reached" in " ".join(capsys.readouterr().out.split())
    (record,) = RunFolder(cut).read_trials()
    assert record.outcome is None
    assert list(RunFolder(cut).checkpoint_path(0).iterdir())
    epochs = len(record.epochs)
    ends = ["--max-epochs", str(epochs + 1), "--grace-period", "1", "--num-samples", "1", "--allow-changes"]
    assert main(["--resume", str(cut), "--quiet", *ends]) == 0
    (record,) = RunFolder(cut).read_trials()
    assert (record.outcome.end, record.outcome.epochs) == (TrialEnd.COMPLETED, epochs + 1)
    assert RunFolder(cut).read_manifest().options["time_limit_seconds"] is None


@pytest.mark.parametrize("module", ["search.run", "search.plan", "trainable.score"])
def test_help_needs_no_torch(module):
    blocked = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_module('{module}', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", blocked, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_resume_with_other_settings_is_refused_with_the_difference_or_recorded(arguments, tmp_path, capsys):
    path = str(tmp_path / "run")
    main([*arguments, "--quiet", "--num-samples", "2", "--output", path])
    capsys.readouterr()
    assert run(main, ["--resume", path, "--gpu-memory-budget", "2GiB"]) == 2
    assert "budget_bytes None → 2.00 GiB" in capsys.readouterr().err
    assert run(main, ["--resume", path, "--quiet", "--gpu-memory-budget", "2GiB", "--allow-changes"]) == 0
    assert RunFolder(path).read_manifest().history[0]["changes"] == ["budget_bytes None → 2.00 GiB"]
    assert run(main, ["--resume", path, "--quiet", "--gpu-memory-budget", "2GiB", "--num-samples", "3"]) == 0
    ends = [record.outcome.end for record in RunFolder(path).read_trials()]
    assert len(ends) == 3
    assert set(ends) <= {TrialEnd.COMPLETED, TrialEnd.PRUNED}


def test_a_warm_start_proposes_the_old_winner_first(arguments, tmp_path, capsys):
    main([*arguments, "--quiet", "--output", str(tmp_path / "old")])
    best = yaml.safe_load((tmp_path / "old/best.yaml").read_text())["config"]
    more = ["--seed", "9", "--num-samples", "1", "--warm-start", str(tmp_path / "old")]
    main([*arguments, *more, "--quiet", "--output", str(tmp_path / "new")])
    assert RunFolder(tmp_path / "new").read_trial(0).start.params == {
        name: best[name] for name in ("num_embeddings", "learning_rate")
    }
    initial = RunFolder(tmp_path / "new").read_manifest().initial
    assert len(initial) >= 1
    assert main(["--resume", str(tmp_path / "new"), "--quiet", "--num-samples", "2"]) == 0
    assert RunFolder(tmp_path / "new").read_manifest().initial == initial
    second = RunFolder(tmp_path / "new").read_trial(1).start.params
    assert second == (initial[1] if len(initial) > 1 else second), "the next of the old run's best"
    assert run(main, ["--resume", str(tmp_path / "new"), "--num-samples", "1"]) == 2
    assert "--num-samples 1 is less than the 2 trials" in capsys.readouterr().err


@pytest.mark.parametrize(("most", "warned"), [("2", True), ("3", False)])
def test_a_search_without_early_stopping_says_so(arguments, tmp_path, caplog, most, warned):
    flags = ["--num-samples", "1", "--max-epochs", most, "--grace-period", "2", "--output", str(tmp_path / "run")]
    main([*arguments, *flags])
    assert ("no trial will be stopped early" in caplog.text) == warned


def test_a_broken_recording_is_counted_where_a_quiet_search_names_none(machine, tmp_path, capsys, caplog):
    root = tmp_path / "machines"
    shutil.copytree(machine, root)
    for path in sorted((root / "press/train").iterdir())[:2]:
        path.write_bytes(b"broken")
    (tmp_path / "space.yaml").write_text(SPACE)
    flags = ["--data-root", str(root), "--machine-type", "press", "--local", "--num-samples", "1", "--max-epochs", "1"]
    main(["--space", str(tmp_path / "space.yaml"), *flags, "--quiet", "--output", str(tmp_path / "run")])
    assert re.search(r"skipped recordings +│ 2 could not be used", capsys.readouterr().out)
    assert "skipped" not in caplog.text
    assert json.loads(RunFolder(tmp_path / "run").summary_path.read_text())["skipped_recordings"] == 2


def test_results_name_the_patches_that_were_used(arguments, tmp_path, capsys):
    """Clips of 160 frames have (160 − 64) // 32 + 1 = 4 windows at stride 32; the space has 6 and 8 patches."""
    space = SPACE.replace("  n_patches: 1\n", "").replace("parameters:", "parameters:\n  n_patches: {choices: [8, 6]}")
    (tmp_path / "space.yaml").write_text(space)
    main([*arguments, "--num-samples", "2", "--output", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert re.search(r"  n_patches +│ 4 ", shown)
    assert not re.search(r"n_patches\W+[68]\b", shown)
    folder = RunFolder(tmp_path / "run")
    assert json.loads(folder.summary_path.read_text())["best"]["params"]["n_patches"] == 4
    assert yaml.safe_load(folder.best_path.read_text())["config"]["n_patches"] == 4
    for record in folder.read_trials():
        assert (record.start.params["n_patches"], record.start.used["n_patches"]) == (6, 4)
    more = ["--num-samples", "1", "--max-epochs", "1", "--quiet", "--warm-start", str(folder.path)]
    main([*arguments, *more, "--output", str(tmp_path / "next")])
    assert RunFolder(tmp_path / "next").read_manifest().initial, "a configuration of 4 patches is 6 in this space"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--space", "ad_tunning"], "did you mean 'ad_tuning'?"),
        (["--space", "ad_smoke", "--data-root", "/nowhere"], "/nowhere"),
        (["--space", "ad_smoke", "--gpu-memory-budget", "-1GiB"], "--gpu-memory-budget '-1GiB' is not a positive"),
        (["--space", "ad_smoke", "--gpu-memory-budget", "24GB"], "GiB"),
        (["--space", "ad_smoke", "--gpu-memory-budget", "64MiB"], "budget"),
        (["--space", "ad_smoke", "--num-samples", "0"], "--num-samples is 0"),
        (["--space", "ad_smoke", "--time-limit", "soon"], "'soon'"),
        (["--space", "ad_smoke", "--time-limit", "-5"], "--time-limit is '-5'; write a positive number of seconds"),
        (["--space", "ad_smoke", "--checkpoint-limit", "0"], "--checkpoint-limit '0' must be greater than zero"),
        (["--space", "ad_smoke", "--output", ""], "--output is empty"),
        (
            ["--space", "nowhere.yaml"],
            "No such file or directory; name a YAML file, or one of ad_gpu, ad_losses, ad_smoke",
        ),
        (["--space", "ad_smoke", "--resume", "/nowhere/run"], "/nowhere/run is not a folder"),
        (["--space", "ad_smoke", "--warm-start", "/nowhere/run"], "/nowhere/run"),
        (["--resume", "/nowhere/run", "--no-portfolio"], "--no-portfolio and --resume cannot be combined"),
        (["--space", "ad_smoke", "--device", "tpu"], "'tpu'"),
        (["--space", "ad_smoke", "--study-storage", "sqlite:////nowhere/x.db", "--study-name", "s"], "sqlite"),
        (["--space", "ad_smoke", "--num-samples", "many"], "'many'"),
        (["--space", "ad_smoke", "--nonsense", "1"], "unknown flag --nonsense"),
        (["--spaces", "ad_smoke"], "unknown flag --spaces (did you mean --space?)"),
        ([], "--space is missing"),
    ],
)
def test_bad_input_gets_one_clear_line_and_leaves_no_folder(machine, tmp_path, monkeypatch, capsys, flags, expected):
    monkeypatch.chdir(tmp_path)
    data = ["--data-root", str(machine), "--machine-type", "press"]
    assert run(main, ["--local", *data, *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert not list(tmp_path.glob("runs/*"))


def test_an_output_that_is_a_file_or_full_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    for name, words in (("file", "is a file"), ("full", "is not empty")):
        assert run(main, ["--space", "ad_smoke", "--local", "--output", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "full/mine").read_text() == "mine"


def test_two_drivers_do_not_share_a_folder(arguments, tmp_path, capsys):
    from search.store.folder import held

    main([*arguments, "--quiet", "--num-samples", "1", "--output", str(tmp_path / "run")])
    capsys.readouterr()
    with held(tmp_path / "run"):
        assert run(main, ["--resume", str(tmp_path / "run")]) == 2
    assert "another search is running" in capsys.readouterr().err
