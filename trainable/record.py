"""The record of a trial and of a run: what a run's folder holds, and how a trial ended. Standard library only.

A run's folder::

    RUN/
      manifest.json            what was requested: command, seed, space, data, budget, versions, device
      space.yaml               the space as it was read
      study.db                 the Optuna study (SQLite), unless --study-storage names another
      trials/00007/
        trial.json             TrialStart: number, parameters, configuration, plan, predicted bytes
        epochs.jsonl           one EpochReport per line, appended as it arrives
        end.json               TrialOutcome
        checkpoints/           (or under --storage-path)
      best.yaml, summary.json  written when the search ends
      detector/                likewise: the mean of the best trained models
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from trainable.config import DataConfig, Objective, TrialConfig
from trainable.durable import read_json, readable, sync_folder, write_json, write_text, writing
from trainable.errors import ConfigError, RunError
from trainable.execution_plan import ExecutionPlan
from trainable.typed import Count, CountFromOne, Share, Within, build

_NUMBER = re.compile(r"[0-9]{5,9}")
"""Name of a trial's folder."""


class OtherVersionError(ValueError):
    """A record holds a configuration that this version does not know."""


class TrialEnd(StrEnum):
    """How a trial ended, named the same everywhere from the trial to the plot."""

    COMPLETED = "completed"
    """Trained all its epochs."""
    PRUNED = "pruned"
    """Stopped early by ASHA."""
    OVER_BUDGET = "over_budget"
    """Never started: no execution plan fits the memory budget."""
    OUT_OF_MEMORY = "out_of_memory"
    """Ran out of memory and no smaller plan exists."""
    NON_FINITE = "non_finite"
    """Its loss or weights became NaN or infinite."""
    CRASHED = "crashed"
    """An exception, a lost worker or a time-out, more often than --max-failures allows."""


FAILURES = frozenset({TrialEnd.OUT_OF_MEMORY, TrialEnd.NON_FINITE, TrialEnd.CRASHED})
"""Endings that are failures: they repel the sampler, and their configuration is not tried again."""


def best_first(value: float, number: int) -> tuple[float, int]:
    """Sort key of trials by their last epoch's value: the highest first, and of equals the one that started first."""
    return -value, number


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What a trial reports after each epoch."""

    epoch: CountFromOne
    """Epochs finished so far, from 1."""
    phase: Count
    """1 VQ-only, 2 full loss, 3 codebook frozen."""
    loss: float
    reconstruction_loss: float
    commitment_loss: float
    texture_loss: float = 0.0
    """Mean squared error of each cell's deviation; 0 where `texture_weight` is 0."""
    id_loss: float
    """Cross-entropy of the machine-id head; 0 in phase 1 and where its weight is."""
    transform_loss: float
    """Cross-entropy of the transformation head; 0 in phase 1 and where its weight is."""
    extra_losses: dict[str, float] = field(default_factory=dict)
    """Registered loss terms that are shown, by name, before weighting."""
    commitment_scale: float
    """Warm-up factor on the commitment loss, 0 … 1."""
    learning_rate: float
    validation_auc: float | None = None
    """AUC of the configured density model on validation clips, mean over machine ids; None where no label judges."""
    validation_pauc: float | None = None
    """Standardised partial AUC (max_fpr 0.1), mean over machine ids; None where no label judges."""
    pseudo_auc: float | None = None
    """Mean over families of `pseudo_auc_by_density` for the configured density model; None where only labels judge."""
    pseudo_auc_by_density: dict[str, dict[str, float]] = field(default_factory=dict)
    """Density model → family of pseudo-anomalies → AUC against held-back normal clips, mean over machine ids."""
    auc_by_id: dict[str, float] = field(default_factory=dict)
    pauc_by_id: dict[str, float] = field(default_factory=dict)
    auc_by_density: dict[str, float] = field(default_factory=dict)
    """Validation AUC of every cheap density model, by name: one training evaluates several."""
    comparison_auc: dict[str, float] = field(default_factory=dict)
    """Reconstruction and quantization error scored for comparison only; never optimised."""
    perplexity: float
    """exp of the entropy of code usage over the epoch, 1 … K; the mean of several codebooks."""
    perplexities: tuple[float, ...] = ()
    """Perplexity of each codebook, in order; empty in a report from a version that had one only."""
    dead_code_share: float
    """Share of codes not used in the epoch, 0 … 1."""
    epoch_seconds: float
    train_seconds: float
    score_seconds: float
    peak_bytes: Count
    """Measured peak of the CUDA allocator; 0 on a CPU."""
    driver_bytes: Count = 0
    """Peak of everything that the driver counts for the process, since the last recovery in the epoch if there was one,
    as `peak_bytes`; 0 on a CPU and where the driver does not tell."""
    cap_bytes: Count = 0
    """What the allocator could reserve: the budget less what lies outside it; 0 on a CPU and without a budget."""
    predicted_bytes: Count
    """Predicted peak of the plan in use, for the whole process; 0 if there was no prediction."""
    predicted_allocated_bytes: Count = 0
    """The prediction for `peak_bytes`: the allocator's part, without margin; 0 if there was no prediction."""
    plan: ExecutionPlan | None = None
    """The plan in use; None in a report from a version that did not record it."""
    events: tuple[str, ...] = ()
    """What happened to the trial's memory, one sentence each: ``epoch 3: out of memory under …`` (recovered),
``… plan too large for the cap …`` (before its first epoch in a process), ``… over the budget …`` (by the driver)."""
    stopped: bool = False
    """Whether ASHA ended the trial here: a driver that died before it recorded the ending left no other sign of it."""

    @property
    def value(self) -> float:
        """What the search maximises: the validation AUC, the pseudo-AUC, or the mean of the two where both judge."""
        judged = [each for each in (self.validation_auc, self.pseudo_auc) if each is not None]
        return sum(judged) / len(judged)

    @property
    def recovered(self) -> bool:
        """Whether memory ran out in this epoch, which then went on under a smaller plan."""
        return any("out of memory" in event for event in self.events)

    def scalars(self) -> dict[str, float]:
        """The numbers that make a curve over the epochs, by name; without those that this report does not have."""
        named = {name: getattr(self, name) for name in EPOCH_SCALARS}
        named |= {f"{name}_loss": loss for name, loss in self.extra_losses.items()}
        return {name: float(number) for name, number in named.items() if number is not None}

    def to_dict(self) -> dict[str, Any]:
        return {**_shallow(self), "plan": {} if self.plan is None else self.plan.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EpochReport":
        """The inverse of `to_dict`. Raises ValueError if a field is missing, unknown or of another type or range."""
        report = build(cls, {**values, "plan": _plan_of(values.get("plan"))})
        if report.validation_auc is None and report.pseudo_auc is None:
            raise ValueError(f"the report of epoch {report.epoch} has no AUC")
        return report


EPOCH_SCALARS = tuple(each.name for each in fields(EpochReport) if each.type in (float, float | None, Count))
"""The numbers of a report by name; those of registered loss terms are not among them."""


@dataclass(frozen=True, kw_only=True)
class TrialStart:
    """What is known about a trial before its first epoch."""

    number: Count
    """The trial's number in the study."""
    params: dict[str, Any]
    """What the sampler chose."""
    config: TrialConfig
    plan: ExecutionPlan | None
    """None if no plan fits."""
    predicted_bytes: Count
    """Peak of `plan`, or of the smallest plan where none fits; 0 where no budget was set."""
    predicted_allocated_bytes: Count = 0
    """The allocator's part of it, without margin; 0 where none was predicted."""
    predicted_epoch_seconds: Annotated[float, Within(low=0.0)] | None = None
    """Seconds of an epoch, training and scoring (`trainable.timing`); None where the device's speed was not known."""

    @property
    def used(self) -> dict[str, Any]:
        """The searched parameters as the trial used them: n_patches is at most a clip's number of windows."""
        flat = self.config.flat()
        return {name: flat.get(name, value) for name, value in self.params.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the inverse of `from_dict`."""
        plan = None if self.plan is None else self.plan.to_dict()
        return {**_shallow(self), "config": self.config.flat(), "plan": plan}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrialStart":
        """The inverse of `to_dict`.

        Knobs that an earlier version did not have keep their defaults, which reproduce that version's behaviour. Raises
        ValueError if a field is missing, unknown, of another type or out of range, or if the parameters are not those
        of the configuration.
        """
        decoders = {"config": _config_of, "plan": _plan_of}
        start = build(cls, {name: decoders.get(name, _as_it_is)(value) for name, value in values.items()})
        _check_params(start)
        return start


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """How a trial ended and why."""

    end: TrialEnd
    reason: str
    """One sentence; empty for completed."""
    epochs: Count
    best_auc: Share | None
    """Highest value of any epoch (`EpochReport.value`), None where there was none."""
    final_auc: Share | None
    """Value of the last epoch."""
    failures: Count = 0
    """How often the trial was restarted from its checkpoint."""


def outcome_in(attributes: Mapping[str, Any]) -> TrialOutcome | None:
    """How a trial ended, from its user attributes in the study; None if that was not written.

    Raises ValueError where they hold something else.
    """
    values = attributes.get("outcome")
    return None if values is None else build(TrialOutcome, values)


@dataclass(frozen=True)
class TrialRecord:
    """Everything that a run's folder holds about one trial."""

    start: TrialStart
    epochs: tuple[EpochReport, ...]
    outcome: TrialOutcome | None
    """None while the trial runs."""

    @property
    def number(self) -> int:
        return self.start.number

    @property
    def ends_as_reported(self) -> bool:
        """Whether the value of a completed trial is that of its last report; True without a report."""
        if self.outcome is None or self.outcome.end is not TrialEnd.COMPLETED or not self.epochs:
            return True
        return self.outcome.final_auc == self.epochs[-1].value


@dataclass(frozen=True, kw_only=True)
class RunManifest:
    """What was requested of a run, and what it ran on."""

    name: str
    command: str
    created: str
    """ISO 8601, UTC."""
    seed: Count
    space_name: str
    space_digest: str
    """SHA-256 of the space's canonical form: resuming with another space is refused."""
    data: dict[str, Any]
    """DataConfig.to_dict()."""
    data_digest: str
    clips: dict[str, Count] = field(default_factory=dict)
    """Number of clips in each split."""
    num_samples: Count
    max_epochs: CountFromOne
    gpu_memory_budget_bytes: CountFromOne | None
    device: str
    study_storage: str | None
    """URL without credentials; None = study.db in the run's folder."""
    study_name: str
    commit: str
    """Git commit of the code, empty where unknown."""
    versions: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    initial: tuple[dict[str, Any], ...] = ()
    """Parameters of the first proposals, which a warm start took from another run."""
    run_id: str = ""
    """Created once, when the run begins; empty for runs older than this field."""
    pseudo: dict[str, Any] = field(default_factory=dict)
    """Counts of held-back clips, severities of the pseudo-anomalies and warnings; empty where only labels judge."""
    history: tuple[dict[str, Any], ...] = ()
    """One entry per resume: when, command, what was explicitly changed."""

    @property
    def objective(self) -> Objective:
        """What judges the trials. Raises ValueError where `data` names something else."""
        return Objective.named(self.data.get("objective", Objective.LABELS))

    @property
    def source(self) -> str:
        """Where the recordings are, for readers."""
        return str(self.data.get("recordings") or self.data.get("data_root") or "the embedded machines")

    @property
    def identity(self) -> str:
        """Identifies this run among all others in a shared study or storage, wherever its folder lies."""
        return self.run_id or self.name


class RunFolder:
    """Reads and writes a run's folder. Every write is atomic (temporary file, fsync, rename) or an append."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def name(self) -> str:
        """The run's name to people and other programs: its folder's."""
        return readable(self.path.resolve().name)

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def study_path(self) -> Path:
        return self.path / "study.db"

    @property
    def best_path(self) -> Path:
        return self.path / "best.yaml"

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    @property
    def detector_path(self) -> Path:
        return self.path / "detector"

    @property
    def space_path(self) -> Path:
        return self.path / "space.yaml"

    def trial_path(self, number: int) -> Path:
        return self.path / "trials" / f"{number:05d}"

    def checkpoint_path(self, number: int) -> Path:
        return self.trial_path(number) / "checkpoints"

    def write_manifest(self, manifest: RunManifest) -> None:
        with writing(self.manifest_path):
            write_json(self.manifest_path, asdict(manifest))

    def read_manifest(self) -> RunManifest:
        """Raises RunError if the folder is not a run."""
        values = read_json(self.manifest_path, what="a run's manifest")
        try:
            manifest = build(RunManifest, values)
            manifest = replace(manifest, data=DataConfig.saved_by_earlier(manifest.data))
            if "objective" not in manifest.data:
                raise ValueError("data names no objective")
            Objective.named(manifest.data["objective"])
            return manifest
        except ValueError as error:
            raise RunError(f"{self.manifest_path} is not the manifest of a run: {error}") from None

    def read_summary(self, manifest: RunManifest) -> dict[str, Any]:
        """What the search wrote at its end; empty if it has not ended since its last resume."""
        if not self.summary_path.exists():
            return {}
        summary = read_json(self.summary_path, what="a run's summary")
        parts = 1 + len(manifest.history)
        return summary if summary.get("parts", parts) == parts else {}

    def write_start(self, start: TrialStart) -> None:
        path = self.trial_path(start.number) / "trial.json"
        with writing(path):
            write_json(path, start.to_dict())

    @property
    def check_path(self) -> Path:
        return self.path / "data_check.json"

    def write_check(self, check: Mapping[str, Any]) -> None:
        """How the recordings were stored: `trainable.data.check.DataCheck.to_dict`."""
        with writing(self.check_path):
            write_json(self.check_path, check)

    def append_epoch(self, number: int, report: EpochReport) -> None:
        """Appends one line and syncs it to disk, after removing a half-written last line."""
        path = self.trial_path(number) / "epochs.jsonl"
        with writing(path):
            new = not path.exists()
            with path.open("a+b") as file:
                _mend_last_line(file)
                file.write(json.dumps(report.to_dict()).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(path.parent)

    def write_outcome(self, number: int, outcome: TrialOutcome) -> None:
        path = self.trial_path(number) / "end.json"
        with writing(path):
            write_json(path, asdict(outcome))

    def read_trial(self, number: int) -> TrialRecord:
        """The record of one trial. A half-written last line of epochs.jsonl is left out.

        If an epoch was reported twice (the trial resumed from an earlier checkpoint), the later report counts.
        Raises RunError if the trial does not exist or its files are damaged.
        """
        path = self.trial_path(number)
        try:
            start = TrialStart.from_dict(read_json(path / "trial.json", what="the start of a trial"))
            if start.number != number:
                raise ValueError(f"trial.json is that of trial {start.number}")
            epochs = {report.epoch: report for report in _read_epochs(path / "epochs.jsonl")}
            outcome = None
            if (path / "end.json").exists():
                outcome = build(TrialOutcome, read_json(path / "end.json", what="the end of a trial"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} does not hold the record of a trial: {error}") from None
        return TrialRecord(start, tuple(epochs[epoch] for epoch in sorted(epochs)), outcome)

    def numbers(self) -> list[int]:
        """Numbers of the trials whose start is written, ascending."""
        folder = self.path / "trials"
        if not folder.is_dir():
            return []
        numbers = sorted({int(entry.name) for entry in folder.iterdir() if _NUMBER.fullmatch(entry.name)})
        return [number for number in numbers if (self.trial_path(number) / "trial.json").exists()]

    def read_trials(self) -> list[TrialRecord]:
        """All trials in the order of their numbers. Raises RunError as `read_trial` does."""
        return [self.read_trial(number) for number in self.numbers()]

    def write_text(self, path: Path, text: str) -> None:
        """Writes a file of this folder, complete or not at all."""
        with writing(path):
            write_text(path, text)


def _shallow(record: Any) -> dict[str, Any]:
    """A record's fields by name, with unconverted values."""
    return {each.name: getattr(record, each.name) for each in fields(record)}


def _as_it_is(value: Any) -> Any:
    return value


def _config_of(values: Any) -> TrialConfig:
    """The configuration that a file holds by flat names. Raises ValueError if it is not one."""
    if not isinstance(values, Mapping):
        raise ValueError("config is not a mapping of knobs to values")
    try:
        return TrialConfig.from_flat(values)
    except ConfigError as error:
        raise OtherVersionError(f"{error} (was it written by another version of this project?)") from None


_CLIPPED = frozenset({"n_patches", "score_patches"})
"""Parameters of which a trial uses at most as many as its clips have windows."""


def _check_params(start: TrialStart) -> None:
    """Raises ValueError if a searched parameter is not what the configuration, which is validated, says."""
    flat = start.config.flat()
    changed = {name: value for name, value in start.params.items() if not _equal(value, flat.get(name, value))}
    if not changed:
        return
    try:
        drawn = start.config.replace(**changed).flat()
    except ConfigError as error:
        raise ValueError(f"params: {error}") from None
    for name in changed:
        if name not in _CLIPPED or drawn[name] < flat[name]:
            raise ValueError(f"its parameter {name} is not what its configuration says")


def _equal(value: Any, used: Any) -> bool:
    """Whether two values are the same; an integer may stand for a number, but not a switch for one."""
    return value == used and isinstance(value, bool) == isinstance(used, bool)


def _plan_of(values: Any) -> ExecutionPlan | None:
    """The plan that a file holds; None for null or, as reports without a plan have it, an empty object."""
    if not values:
        return None
    try:
        return ExecutionPlan.from_dict(values)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _mend_last_line(file: BinaryIO) -> None:
    """Terminates a last line that lacks only its line break, and cuts off an incomplete one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if size == 0 or file.read() == b"\n":
        return
    file.seek(0)
    whole, _, last = file.read().rpartition(b"\n")
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        file.truncate(len(whole) + 1 if whole else 0)
    else:
        file.write(b"\n")


def _read_epochs(path: Path) -> Iterator[EpochReport]:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    for index, line in enumerate(lines):
        if not line:
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            if index == len(lines) - 1:
                return  # the process died while appending this line
            raise ValueError(f"line {index + 1} of {path.name} is damaged") from None
        if not isinstance(values, dict):
            raise ValueError(f"line {index + 1} of {path.name} is no report")
        yield EpochReport.from_dict(values)
