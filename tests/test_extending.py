"""Every block of docs/extending.md works as it stands, as a module outside of the packages."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from search.engine.asha import Decision
from search.listeners.tensorboard import TensorBoardScalars
from search.registry import LISTENERS, SAMPLERS
from search.run import main
from spaces.loader import space_from_text
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.listeners_tests.test_progress import report as some_report
from tests.search_tests.listeners_tests.test_tensorboard import read
from tests.search_tests.test_run import SPACE
from tests.trainable_tests.recording_trees import mel_clip, write_tree
from tests.trainable_tests.test_memory_trace import HOST_BLOCKS, predicted, really_allocated
from trainable import registry
from trainable.commandline import run
from trainable.config import DataConfig, FrontEndConfig, TrialConfig, knobs
from trainable.data.load import Dataset, load_dataset
from trainable.detection.detector import Detector, Member, build_detector
from trainable.errors import CheckpointError, ConfigError, DataError, SpaceError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.key import memory_key
from trainable.memory.planner import Planner
from trainable.memory.predict import program_of
from trainable.memory.trace import Form, trace
from trainable.model.geometry import Geometry, geometry_of
from trainable.record import RunFolder, TrialOutcome, TrialStart
from trainable.scoring.registry import make_density
from trainable.trial import PlannedTrial, Trial
from trainable.units import GIB

PAGE = Path(__file__).parents[1] / "docs/extending.md"
REGISTRIES = ("DENSITIES", "ARCHITECTURES", "QUANTIZERS", "LOSS_TERMS", "LAYOUTS")
TINY = {
    "width": 0.25,
    "latent_dim": 6,
    "head_hidden": 8,
    "num_embeddings": 16,
    "n_patches": 2,
    "stride": 32,
    "epochs": 2,
}


def blocks() -> dict[str, str]:
    """Python blocks of the page by the module that their first line names."""
    found = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return dict(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds every block as a file."""
    for name, text in blocks().items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Every block imported; what they register is forgotten afterwards."""
    for each in (*(getattr(registry, name) for name in REGISTRIES), SAMPLERS, LISTENERS):
        monkeypatch.setattr(each, "_parts", dict(each._parts))
    monkeypatch.syspath_prepend(str(folder))
    yield {name: importlib.import_module(name) for name in blocks()}
    for name in blocks():
        del sys.modules[name]


def trained(dataset: Dataset, **flat: object) -> tuple[Trial, list[dict[str, object]]]:
    """A trial after all of its epochs, and its reports."""
    config = TrialConfig.from_flat(TINY | flat)
    trial = Trial(PlannedTrial.whole_batch(config), dataset)
    reports = []
    while not trial.done:
        reports.append(trial.step().to_dict())
    return trial, reports


def saved_and_loaded(trial: Trial, folder: Path) -> tuple[Detector, Detector]:
    detector = build_detector([Member.of_trial(trial)], trial.dataset, trial.dataset.held_out, FrontEndConfig())
    detector.save(folder)
    return detector, Detector.load(folder)


def test_every_python_block_is_a_module_of_its_own() -> None:
    assert len(blocks()) == PAGE.read_text(encoding="utf-8").count("```python")
    assert set(blocks()) >= {"unigram", "by_folder", "smoothness", "wide_grid", "scaled", "best_so_far", "near_best"}


def test_a_density_model_is_searched_reported_saved_and_loaded(modules, tiny_dataset: Dataset, tmp_path: Path) -> None:
    space = space_from_text("parameters: {density: {choices: [unigram, counts]}}")
    assert space.config({"density": "unigram"}, epochs=2).score.density == "unigram"
    trial, reports = trained(tiny_dataset, density="unigram")
    assert reports[-1]["validation_auc"] == reports[-1]["auc_by_density"]["unigram"]
    _, others = trained(tiny_dataset, density="counts", epochs=1)
    assert "unigram" in others[0]["auc_by_density"], "it calls itself cheap"
    made, loaded = saved_and_loaded(trial, tmp_path / "detector")
    held_out = tiny_dataset.held_out
    np.testing.assert_array_equal(made.score_clips(held_out), loaded.score_clips(held_out))


def test_a_detector_says_which_density_model_is_missing(
    modules, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_and_loaded(trained(tiny_dataset, density="unigram", epochs=1)[0], tmp_path / "detector")
    monkeypatch.delitem(registry.DENSITIES._parts, "unigram")
    with pytest.raises((CheckpointError, ConfigError), match="unigram"):
        Detector.load(tmp_path / "detector")


def test_a_layout_makes_recordings_of_its_folder_and_leaves_others_alone(modules, tmp_path: Path) -> None:
    for machine_id in ("00", "04"):
        for kind, count in (("normal", 8), ("abnormal", 4)):
            where = tmp_path / f"data/pump/id_{machine_id}/{kind}"
            where.mkdir(parents=True)
            for index in range(count):
                np.save(where / f"{index:08d}.npy", mel_clip(index + 100 * int(machine_id) + 50 * (kind == "normal")))
    (tmp_path / "data/pump/id_00/normal/notes.txt").write_text("hello")
    (tmp_path / "data/pump/id_00/strange").mkdir()
    np.save(tmp_path / "data/pump/id_00/strange/00000000.npy", mel_clip(999))
    write_tree(tmp_path / "data", "fan")

    def load(machine_type: str) -> Dataset:
        config = DataConfig(data_root=str(tmp_path / "data"), machine_type=machine_type)
        return load_dataset(config, cache_dir=tmp_path / "cache")

    pump = load("pump")
    assert pump.ids == ("00", "04")
    assert (len(pump.train), len(pump.validation) + len(pump.held_out)) == (8, 16)
    assert len(pump.skipped) == 1
    assert "strange/00000000.npy: lies in neither" in pump.skipped[0]
    assert "anomaly_id_04_00000003.npy" in (*pump.validation.names, *pump.held_out.names)
    assert len(load("fan").train) == 6
    (tmp_path / "data/pump/id_00/abnormal/00000000.npy").rename(tmp_path / "data/pump/id_00/normal/00000009.npy")
    assert load("pump").digest != pump.digest
    for path in (tmp_path / "data/pump").glob("id_*/normal/*"):
        path.unlink()
    with pytest.raises(DataError, match="holds no normal train clips in the layout of ByFolder"):
        load("pump")


def test_a_loss_term_is_a_knob_counts_in_its_phases_and_is_shown(
    modules, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    space = space_from_text("parameters: {smoothness_weight: {low: 0.1, high: 10.0, log: true}}")
    config = space.config({"smoothness_weight": 2.0}, epochs=2)
    assert config.flat()["smoothness_weight"] == 2.0
    assert TrialConfig.from_flat(config.flat()) == config
    assert memory_key(config) != memory_key(TrialConfig())
    _, reports = trained(tiny_dataset, smoothness_weight=2.0, vq_only_share=0.5, frozen_share=0.0)
    assert [report["phase"] for report in reports] == [1, 2]
    assert reports[0]["extra_losses"] == {"smoothness": 0.0}
    last = reports[1]
    assert last["extra_losses"]["smoothness"] > 0
    own = (
        last["reconstruction_loss"] + 0.25 * last["commitment_loss"] + 0.1 * (last["id_loss"] + last["transform_loss"])
    )
    assert last["loss"] == pytest.approx(own + 2.0 * last["extra_losses"]["smoothness"], rel=1e-5)
    with TensorBoardScalars(tmp_path) as scalars:
        scalars.on_report(0, some_report(1, 0.6, extra_losses={"smoothness": 0.25}), Decision.CONTINUE)
    assert [event.value for event in read(tmp_path / "00000").Scalars("smoothness_loss")] == [0.25]


def test_a_loss_term_of_weight_zero_leaves_every_trial_as_it_was(modules, tiny_dataset: Dataset) -> None:
    _, reports = trained(tiny_dataset, epochs=1)
    registry.LOSS_TERMS._parts.clear()
    _, without = trained(tiny_dataset, epochs=1)
    assert reports[0]["extra_losses"] == {"smoothness": 0.0}
    assert without[0]["extra_losses"] == {}
    losses = [name for name in without[0] if name.endswith("loss")]
    assert [reports[0][name] for name in losses] == [without[0][name] for name in losses]
    with pytest.raises(ConfigError, match="unknown parameter 'smoothness_weight'"):
        TrialConfig.from_flat({"smoothness_weight": 1.0})


@pytest.mark.parametrize("quantizer", ["ema", "scaled"])
def test_a_model_of_another_grid_is_planned_trained_scored_and_saved(
    modules, quantizer: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    from analysis.figures.surprise import spectrogram_with_surprise

    flat = {"model": "wide_grid", "quantizer": quantizer, "texture_weight": 1.0, "smoothness_weight": 1.0}
    config = TrialConfig.from_flat(TINY | flat)
    assert geometry_of(config) == Geometry(rows=8, columns=16)
    chosen = Planner.for_dataset(tiny_dataset, budget_bytes=GIB).plan(config)
    assert chosen.fits
    trial, reports = trained(tiny_dataset, **flat)
    assert all(np.isfinite([report["loss"], report["validation_auc"]]).all() for report in reports)
    codes = trial.codes(tiny_dataset.held_out)
    assert codes.codes_BPHWM.shape == (8, 2, 8, 16, 1)
    train = trial.train_codes()
    for name in registry.DENSITIES.names():
        scores = make_density(config.score, name=name).fit(train, trial.codebook()).score_samples(codes)
        assert np.isfinite(scores).all(), name
    made, loaded = saved_and_loaded(trial, tmp_path / "detector")
    held_out = tiny_dataset.held_out
    np.testing.assert_array_equal(made.score_clips(held_out), loaded.score_clips(held_out))
    features = held_out.frames_TF[: held_out.offsets[1]]
    assert loaded.score_features(features, "00").span_seconds[1] > 0
    surprise = made.members[0].surprise.position_scores(codes)[0].numpy()
    figure = spectrogram_with_surprise(
        features,
        surprise,
        codes.starts_BP[0].numpy(),
        geometry=geometry_of(config),
        seconds_per_frame=0.032,
        title="clip",
        unit="nats",
    )
    assert figure.axes[1].get_images()[1].get_array().shape == (8, len(features))


@pytest.mark.parametrize("kind", ["step", "validation", "codebook_start"])
def test_memory_of_another_model_quantizer_and_term_is_what_real_tensors_take(modules, kind: str) -> None:
    config = TrialConfig.from_flat(
        {"model": "wide_grid", "quantizer": "scaled", "smoothness_weight": 1.0, "texture_weight": 5.0}
        | {"width": 0.5, "latent_dim": 12, "num_embeddings": 60, "head_hidden": 16}
    )
    case = {"kind": kind, "phase": 2, "clips": 2, "n_patches": 3, "split": True, "chunk": 100}
    case |= {"encoder": True, "decoder": True}
    trace(config, 3, Form(kind, 2 if kind == "step" else 1, False, False, "float32"), verify=True)  # type: ignore[arg-type]
    real = really_allocated(config, case)
    latents = 4 * 128 * 6 * 12
    host_codes = 2 * 1024 * 3 * 4 if kind == "validation" else 0
    assert real - HOST_BLOCKS - host_codes <= predicted(config, case) <= real + 3 * latents + 8192 * 4


def test_another_model_has_traces_of_its_own(modules) -> None:
    form = Form("step", 2, False, False, "float32")
    own, other = TrialConfig(), TrialConfig.from_flat({"model": "wide_grid"})
    assert program_of(own, 3, form) is not program_of(other, 3, form)
    assert memory_key(own) != memory_key(other)
    plan = ExecutionPlan(micro_batch_clips=8, quantizer_chunk_rows=1024)
    assert 2 * Planner.counts(own, plan)[1] == Planner.counts(other, plan)[1]


def test_a_model_of_longer_patches_refuses_shorter_clips(modules, tiny_dataset: Dataset) -> None:
    wide = modules["wide_grid"]
    long = wide.Architecture(Geometry(patch_frames=256, rows=8, columns=64), wide.WideEncoder, wide.WideDecoder)
    wide.register_model("long", long)
    with pytest.raises(DataError, match="a clip of 141 frames is shorter than the model's patches of 256"):
        trained(tiny_dataset, model="long")
    wider = wide.Architecture(Geometry(patch_frames=128, rows=8, columns=32), wide.WideEncoder, wide.WideDecoder)
    wide.register_model("wider", wider)
    trial, reports = trained(tiny_dataset, model="wider", epochs=1)
    assert np.isfinite(reports[0]["loss"])
    assert trial.codes(tiny_dataset.held_out).codes_BPHWM.shape[2:] == (8, 32, 1)
    space = space_from_text("parameters: {model: {choices: [convolutional, wider]}}\nfixed: {stride: 8}").for_clips(141)
    assert space.config({"model": "wider"}, epochs=1).patch.n_patches == (141 - 128) // 8 + 1


def test_a_listener_hears_of_what_is_better(modules, tmp_path: Path) -> None:
    with modules["best_so_far"].BestSoFar(tmp_path) as listener:
        for epoch, auc in ((1, 0.6), (2, 0.5), (3, 0.7)):
            listener.on_report(4, some_report(epoch, auc), Decision.CONTINUE)
    said = (tmp_path / "best_so_far.txt").read_text().splitlines()
    assert said == ["trial 4, epoch 1: AUC 0.600", "trial 4, epoch 3: AUC 0.700"]


@pytest.fixture
def searching(tmp_path: Path) -> list[str]:
    """Flags of a search of seconds in this process, but for its folder."""
    (tmp_path / "space.yaml").write_text(SPACE)
    machines = write_recordings(tmp_path / "machines", machine_type="press", train=6, test=4)
    words = ["--space", str(tmp_path / "space.yaml"), "--data-root", str(machines), "--machine-type", "press"]
    return [*words, "--local", "--quiet", "--startup-trials", "1", "--max-epochs", "1"]


def test_a_search_proposes_by_its_sampler_and_tells_its_listener(
    modules, searching: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    listener = modules["best_so_far"].BestSoFar

    class Hearing(listener):
        def on_start(self, start: TrialStart, *, resumed: bool) -> None:
            told.append(f"start {start.number}")

        def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
            told.append(f"{outcome.end.value} {start.number}")

        def close(self) -> None:
            super().close()
            told.append("closed")

    modules["best_so_far"].register_listener("hearing", Hearing)
    proposer = modules["near_best"].NearBest
    asked: list[int] = []
    suggest = proposer.suggest
    monkeypatch.setattr(
        proposer, "suggest", lambda self, index, fits: (asked.append(index), suggest(self, index, fits))[1]
    )
    path = tmp_path / "run"
    flags = ["--sampler", "near_best", "--listener", "hearing", "--listener", "best_so_far", "--num-samples", "3"]
    assert main([*searching, *flags, "--output", str(path)]) == 0
    assert asked == [0, 1, 2]
    assert told == ["start 0", "completed 0", "start 1", "completed 1", "start 2", "completed 2", "closed"]
    heard = (path / "best_so_far.txt").read_text().splitlines()
    assert heard.count("trial 0, epoch 1: AUC " + heard[0][-5:]) == 2, "both wrote"
    options = RunFolder(path).read_manifest().options
    assert (options["sampler"], options["listeners"]) == ("near_best", ["hearing", "best_so_far"])
    assert run(main, ["--resume", str(path), "--sampler", "random", "--num-samples", "4"]) == 2
    assert "sampler near_best → random" in capsys.readouterr().err
    assert main(["--resume", str(path), "--quiet", "--num-samples", "4", "--listener", "hearing"]) == 0
    assert (asked, told[-3:]) == ([0, 1, 2, 3], ["start 3", "completed 3", "closed"])


def test_a_sampler_that_leaves_the_space_is_told_so(
    modules, searching: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"num_embeddings": 5, "learning_rate": 0.002}
    proposal = modules["near_best"].Proposal(wrong, True, 1)
    monkeypatch.setattr(modules["near_best"].NearBest, "suggest", lambda self, index, fits: proposal)
    assert run(main, [*searching, "--sampler", "near_best", "--output", str(tmp_path / "run")]) == 2
    assert "the sampler near_best proposed {'num_embeddings': 5" in capsys.readouterr().err


def test_mistakes_of_registration_are_one_line(modules, monkeypatch: pytest.MonkeyPatch) -> None:
    unigram, smoothness, wide = modules["unigram"], modules["smoothness"], modules["wide_grid"]
    with pytest.raises(ConfigError, match="Unigram cannot be registered as 'other'"):
        unigram.register_density("other", unigram.Unigram)
    with pytest.raises(ConfigError, match="there is a model convolutional already"):
        wide.register_model("convolutional", wide.Architecture(Geometry(), wide.WideEncoder, wide.WideDecoder))
    with pytest.raises(ConfigError, match="cannot be registered as 'Wide Grid'"):
        wide.register_model("Wide Grid", wide.Architecture(Geometry(), wide.WideEncoder, wide.WideDecoder))
    with pytest.raises(ConfigError, match="a patch of 64 frames has no 24 equal cells"):
        Geometry(columns=24)
    with pytest.raises(ConfigError, match="the front end produces 64"):
        wide.Architecture(Geometry(patch_mels=128), wide.WideEncoder, wide.WideDecoder)
    with pytest.raises(ConfigError, match="needs a weight of its own"):
        smoothness.register_loss_term(smoothness.LossTerm(name="free", value=smoothness.slowness, weight=None))
    with pytest.raises(ConfigError, match="counts in the phases"):
        smoothness.LossTerm(name="never", value=smoothness.slowness, weight=None, phases=())
    with pytest.raises(SpaceError, match=r"density is 'unigrm'.*did you mean 'unigram'"):
        space_from_text("parameters: {density: {choices: [unigrm]}}")
    taken = smoothness.weight_knob("id_weight", "of another term")
    smoothness.register_loss_term(smoothness.LossTerm(name="second", value=smoothness.slowness, weight=taken))
    with pytest.raises(ConfigError, match="loss term second: there is a parameter id_weight already"):
        knobs()
    registry.LOSS_TERMS._parts.clear()
    monkeypatch.setenv(registry.EXTENSIONS, "there_is_no_such_module")
    with pytest.raises(ConfigError, match="AD_EXTENSIONS names 'there_is_no_such_module', which cannot be imported"):
        registry.DENSITIES.names()


def test_a_loss_term_must_be_a_scalar(modules, tiny_dataset: Dataset) -> None:
    smoothness = modules["smoothness"]
    smoothness.register_loss_term(
        smoothness.LossTerm(
            name="vector",
            value=lambda values: values.latents_XDHW.square().mean(dim=1),
            weight=smoothness.weight_knob("vector_weight", "of no scalar"),
        )
    )
    with pytest.raises(ConfigError, match="loss term vector returns a tensor of shape"):
        trained(tiny_dataset, vector_weight=1.0)


def test_a_head_of_a_term_learns_and_is_saved(modules, tiny_dataset: Dataset) -> None:
    smoothness = modules["smoothness"]
    smoothness.register_loss_term(
        smoothness.LossTerm(
            name="level",
            value=lambda values: (values.state.model.extra_heads["level"](values.latents_XDHW) - 1.0).square().mean(),
            weight=smoothness.weight_knob("level_weight", "of a head that tells 1"),
            head=lambda config, n_ids: torch.nn.Conv2d(config.model.latent_dim, 1, 1),
        )
    )
    trial, reports = trained(tiny_dataset, level_weight=1.0, epochs=3, learning_rate=0.01)
    first, *_, last = (report["extra_losses"]["level"] for report in reports)
    assert last < 0.5 * first
    state = trial.trainer.state_dict()
    assert "extra_heads.level.weight" in state["model"]
    again = Trial(PlannedTrial.whole_batch(trial.config), tiny_dataset)
    again.trainer.load_state_dict(state)
    assert again.epoch == 3


def test_a_checkpoint_from_before_the_knobs_is_gone_on_from(tiny_dataset: Dataset) -> None:
    trial, _ = trained(tiny_dataset, epochs=2)
    state = trial.trainer.state_dict()
    state["config"] = {name: value for name, value in state["config"].items() if name not in ("model", "quantizer")}
    again = Trial(PlannedTrial.whole_batch(trial.config), tiny_dataset)
    again.trainer.load_state_dict(state)
    assert again.epoch == 2


@pytest.mark.slow
def test_extensions_are_known_to_a_command(folder: Path) -> None:
    named = ",".join(blocks())
    environment = {**os.environ, "AD_EXTENSIONS": named, "PYTHONPATH": str(folder)}
    flags = ["--density", "unigram", "--model", "wide_grid", "--quantizer", "scaled", "--smoothness-weight", "0.5"]
    write_tree(folder / "data")
    flags += [
        "--data-root",
        str(folder / "data"),
        "--epochs",
        "1",
        "--width",
        "0.25",
        "--n-patches",
        "1",
        "--gpu-memory-budget",
        "1GiB",
    ]
    command = [sys.executable, "-m", "trainable.train", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert "AUC" in done.stdout + done.stderr
    environment["AD_EXTENSIONS"] = "no_such_module"
    refused = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("error: AD_EXTENSIONS names 'no_such_module'")
