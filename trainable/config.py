"""One frozen, validated configuration of a trial: everything that changes its result, nothing that does not.

A knob lives in the section of the component that owns it; names are unique over all sections, so that a space
file, a study and a command line may use them flat. Only the standard library is needed here.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trainable.errors import ConfigError
from trainable.registry import ARCHITECTURES, DENSITIES, LOSS_TERMS, QUANTIZERS, Registry

Distance = Literal["euclidean", "cosine"]
CodeGradient = Literal["straight_through", "rotation"]
Aggregation = Literal["mean", "max", "top_k"]
ObjectiveName = Literal["auto", "labels", "normal-only", "both"]
Stem = Literal["strided", "full"]
ScoreWindows = Literal["stride", "cover"]
Channel = int | Literal["auto", "mean"]
"""Of a recording with several channels: one of them, counted from 0, their mean, or what suits their number."""
DensityName = str
"""A name of `trainable.registry.DENSITIES`."""


class Objective(StrEnum):
    """What a trial's value is, the same word from the command line to the report."""

    LABELS = "labels"
    """AUC on labelled validation clips."""
    NORMAL_ONLY = "normal-only"
    """Pseudo-AUC: the mean, over families of pseudo-anomalies, of the AUC against held-back normal clips."""
    BOTH = "both"
    """The mean of the two."""

    @classmethod
    def named(cls, name: str) -> "Objective":
        """The objective of a name; ``auto``, until the recordings have been read, is labels. Raises ValueError."""
        return cls.LABELS if name == "auto" else cls(name)

    @property
    def holds_back(self) -> bool:
        """Whether normal training clips are held back."""
        return self is not Objective.LABELS

    @property
    def metric(self) -> str:
        """The name of a trial's value in the study."""
        return {
            Objective.LABELS: "validation_auc",
            Objective.NORMAL_ONLY: "pseudo_auc",
            Objective.BOTH: "mean_auc",
        }[self]

    @property
    def short(self) -> str:
        """What lines on a terminal call a trial's value."""
        return {Objective.LABELS: "AUC", Objective.NORMAL_ONLY: "pseudo-AUC", Objective.BOTH: "mean AUC"}[self]

    @property
    def measure(self) -> str:
        """What tables call a trial's value."""
        return {
            Objective.LABELS: "validation AUC",
            Objective.NORMAL_ONLY: "pseudo-AUC",
            Objective.BOTH: "mean of validation AUC and pseudo-AUC",
        }[self]


def knob(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, registry: Registry | None = None
) -> Any:
    """A dataclass field with its meaning and its inclusive range, or the registry whose names it takes."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "registry": registry})


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """How clips become patches."""

    n_patches: int = knob(8, "patches kept per clip: sampled if there are more, repeated if fewer", low=1, high=1024)
    stride: int = knob(16, "frames between the starts of neighbouring patches", low=1, high=1024)
    batch_size: int = knob(16, "clips in one optimizer step", low=1, high=4096)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Encoder, decoder and semantic heads."""

    model: str = knob("convolutional", "architecture of encoder and decoder", registry=ARCHITECTURES)
    latent_dim: int = knob(64, "channels of the encoder's output grid", low=2, high=1024)
    width: float = knob(1.0, "factor on the channels 32-64-96 of encoder and decoder", low=0.125, high=16.0)
    head_hidden: int = knob(128, "hidden width of the semantic heads", low=4, high=4096)
    linear_path: bool = knob(
        False, "add a linear map of each cell's values, begun from cosines, to the encoder's output"
    )
    rows: int = knob(0, "rows of a patch's code grid; 0 = the model's own number", low=0, high=1024)
    columns: int = knob(0, "columns of a patch's code grid; 0 = the model's own number", low=0, high=1024)
    stem: Stem = knob("strided", "first convolution: halves the patch (strided) or keeps its 64 × 64 (full)")
    depth: int = knob(0, "residual blocks in each stage of encoder and decoder", low=0, high=8)


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """The codebook and how it learns."""

    quantizer: str = knob("ema", "how latents become codes and codes learn", registry=QUANTIZERS)
    num_embeddings: int = knob(256, "codes in a codebook (K)", low=2, high=65_536)
    codebooks: int = knob(
        1, "codebooks in sequence, each for what those before it left over (residual quantization)", low=1, high=8
    )
    codebook_dim: int = knob(
        0, "width of a code; 0 = latent_dim, otherwise a projection stands between", low=0, high=1024
    )
    ema_decay: float = knob(0.95, "decay of the codebook's EMA statistics per optimizer step", low=0.0, high=0.9999)
    distance: Distance = knob("euclidean", "how the nearest code is found")
    code_gradient: CodeGradient = knob("straight_through", "how gradients pass the quantizer")
    kmeans_start: bool = knob(True, "start the codebook from k-means on the first batches' latents")
    revival: bool = knob(True, "replace dead codes by latents of the current batch")
    dead_threshold: float = knob(0.05, "a code is dead below this share of the mean EMA count", low=0.0, high=1.0)

    def projects(self, latent_dim: int) -> bool:
        """Whether a projection stands between latents of this width and codes."""
        return self.codebook_dim not in (0, latent_dim)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms and the commitment warm-up."""

    extra_weights: tuple[tuple[str, float], ...] = ()
    """Knob → weight of each registered term whose weight is not the default."""
    commitment_cost: float = knob(0.25, "weight of the commitment loss", low=0.0, high=100.0)
    commitment_warmup_epochs: int = knob(
        0, "epoch at which the commitment scale reaches 1; 0 = off", low=0, high=10_000
    )
    commitment_warmup_start: float = knob(0.1, "commitment scale in the first epoch", low=0.0, high=1.0)
    texture_weight: float = knob(
        0.0, "weight of the squared error of each cell's predicted deviation; 0 = off", low=0.0, high=1000.0
    )
    id_weight: float = knob(0.1, "weight of the machine-id head's cross-entropy", low=0.0, high=100.0)
    transform_weight: float = knob(0.1, "weight of the transformation head's cross-entropy", low=0.0, high=100.0)


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """The three phases, as shares of all epochs; a share of 0 switches its phase off."""

    epochs: int = knob(20, "epochs of a full training", low=1, high=100_000)
    vq_only_share: float = knob(0.2, "share of epochs in phase 1: reconstruction + commitment", low=0.0, high=1.0)
    frozen_share: float = knob(0.2, "share of epochs in phase 3: codebook frozen", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its schedule, and whether mixed precision is allowed."""

    learning_rate: float = knob(1e-3, "peak learning rate of AdamW", low=1e-7, high=1.0)
    weight_decay: float = knob(1e-4, "AdamW's decoupled weight decay", low=0.0, high=10.0)
    lr_warmup_epochs: float = knob(1.0, "epochs of linear learning-rate warm-up", low=0.0, high=10_000)
    learning_rate_batch: int = knob(
        0,
        "batch size that learning_rate is for: it is multiplied by √(batch_size / this); 0 = as given",
        low=0,
        high=4096,
    )
    gradient_clip: float = knob(1.0, "largest gradient norm; 0 = no clipping", low=0.0, high=1e6)
    allow_amp: bool = knob(False, "a plan may use mixed precision (the one inexact choice)")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """The density model on code indices that makes a clip's anomaly score."""

    density: DensityName = knob("grid_neighbours", "density model whose AUC is optimised", registry=DENSITIES)
    density_per_id: bool = knob(True, "fit one density model per machine id instead of one for all")
    radius_power: float = knob(
        1.0, "power of a normal neighbour's radius that distances are divided by; 0 = none", low=0.0, high=1.0
    )
    aggregation: Aggregation = knob("mean", "how position scores become a clip's score")
    top_k_share: float = knob(0.1, "share of positions that top_k averages", low=0.001, high=1.0)
    score_patches: int = knob(0, "patches scored per clip, evenly spaced; 0 = n_patches", low=0, high=1024)
    score_windows: ScoreWindows = knob(
        "stride", "where scored patches begin: at multiples of stride, or so that they cover the clip, as a detector's"
    )


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything about a trial that changes its result. Built once, validated once, passed whole."""

    patch: PatchConfig = field(default_factory=PatchConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    phase: PhaseConfig = field(default_factory=PhaseConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    seed: int = knob(0, "the trial's one seed, split into named generators", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        known = {spec.name for spec in _extra_knobs()}
        for name, _ in self.loss.extra_weights:
            if name not in known:
                raise ConfigError(f"unknown parameter {_shown(name)}; no registered loss term has this weight")
        for spec in knobs():
            _check(spec, self.value(spec))
        if self.phase.vq_only_share + self.phase.frozen_share > 1.0:
            raise ConfigError(
                f"vq_only_share {self.phase.vq_only_share} + frozen_share {self.phase.frozen_share} exceed 1; "
                "lower one of them"
            )

    @property
    def scored_patches(self) -> int:
        """Windows of a clip that are scored in a pass."""
        return self.score.score_patches or self.patch.n_patches

    def value(self, spec: "Knob") -> Any:
        """The value of a knob."""
        if spec.extra:
            return dict(self.loss.extra_weights).get(spec.name, spec.default)
        return getattr(getattr(self, spec.section) if spec.section else self, spec.name)

    def flat(self) -> dict[str, Any]:
        """All knobs by their flat names, the inverse of `from_flat`."""
        return {spec.name: self.value(spec) for spec in knobs()}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """The configuration for flat names; knobs that are not named keep their defaults.

        Raises
        ------
        ConfigError
            For an unknown name (with the nearest valid one), a wrong type or a value out of range.
        """
        by_name = {spec.name: spec for spec in knobs()}
        sections: dict[str, dict[str, Any]] = {}
        extra: list[tuple[str, Any]] = []
        for name, value in values.items():
            spec = by_name.get(name)
            if spec is None:
                raise ConfigError(f"unknown parameter {_shown(name)}{nearest(name, by_name)}")
            if not spec.extra:
                sections.setdefault(spec.section, {})[name] = _coerce(spec, value)
            elif (weight := _coerce(spec, value)) != spec.default:
                extra.append((name, weight))
        if extra:
            sections.setdefault("loss", {})["extra_weights"] = tuple(sorted(extra))
        top = sections.pop("", {})
        types = get_type_hints(cls)
        return cls(**{name: types[name](**knob_values) for name, knob_values in sections.items()}, **top)

    def replace(self, **values: Any) -> "TrialConfig":
        """A copy with some flat names changed."""
        return self.from_flat({**self.flat(), **values})


@dataclass(frozen=True)
class Knob:
    """A parameter of `TrialConfig` as other modules see it: name, type, range, meaning."""

    name: str
    section: str
    """Field of `TrialConfig` that holds it; empty for a top-level knob."""
    type: type[Any]
    """int, float, bool or str."""
    default: Any
    doc: str
    low: float | None
    high: float | None
    literals: tuple[str, ...] | None = None
    """The strings that its annotation lists."""
    registry: Registry | None = None
    """The registry whose names it accepts."""
    extra: bool = False
    """Whether it is the weight of a registered loss term, for which no dataclass has a field."""

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The strings it accepts; None for a number or a switch."""
        return self.literals if self.registry is None else self.registry.names()


def weight_knob(name: str, doc: str, *, default: float = 0.0, high: float = 1000.0) -> Knob:
    """The weight of a new loss term: a knob for configurations, spaces and command lines once the term is registered.

    A default above 0 would change trials that were configured before the term existed.
    """
    return Knob(name, "loss", float, default, doc, 0.0, high, extra=True)


def _knobs_of(owner: type, section: str) -> Iterator[Knob]:
    hints = get_type_hints(owner)
    for item in fields(owner):
        hint = hints[item.name]
        if item.name == "extra_weights":
            continue  # these are knobs themselves: see `_extra_knobs`
        if is_dataclass(hint):
            yield from _knobs_of(hint, item.name)  # type: ignore[arg-type]
            continue
        choices = tuple(get_args(hint)) if get_origin(hint) is Literal else None
        yield Knob(
            name=item.name,
            section=section,
            type=str if choices else hint,
            default=item.default,
            doc=item.metadata["doc"],
            low=item.metadata["low"],
            high=item.metadata["high"],
            literals=choices,
            registry=item.metadata["registry"],
        )


_KNOBS: tuple[Knob, ...] = ()


def knobs() -> tuple[Knob, ...]:
    """Every parameter of a trial, in the order of the sections; weights of registered loss terms come last."""
    return (*own_knobs(), *_extra_knobs())


def own_knobs() -> tuple[Knob, ...]:
    """The parameters that are dataclass fields."""
    global _KNOBS
    if not _KNOBS:
        _KNOBS = tuple(_knobs_of(TrialConfig, ""))
    return _KNOBS


def _extra_knobs() -> tuple[Knob, ...]:
    """Weights of the registered loss terms. Raises ConfigError where one has the name of another knob."""
    taken = {spec.name for spec in own_knobs()}
    extra: list[Knob] = []
    for name in LOSS_TERMS.names():
        spec = LOSS_TERMS.get(name).weight
        if spec.name in taken:
            raise ConfigError(f"loss term {name}: there is a parameter {spec.name} already; name its weight otherwise")
        taken.add(spec.name)
        extra.append(spec)
    return tuple(extra)


def nearest(name: str, valid: Any) -> str:
    """`` (did you mean 'x'?)`` for the closest valid name, or the empty string."""
    close = difflib.get_close_matches(str(name)[:80], list(valid), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _coerce(spec: Knob, value: Any) -> Any:
    """Converts an int to float where the knob is a float; any other value keeps its type and is checked."""
    if spec.type is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53:
        return float(value)
    return value


def _shown(value: Any) -> str:
    """A value as a message quotes it; only the type of a nested one, which may be endless when written out."""
    if value is None or isinstance(value, str | float | bool) or (isinstance(value, int) and abs(value) <= 2**63):
        text = repr(value)
        return text if len(text) <= 80 else text[:80] + " …"
    return f"a {type(value).__name__}"


def _check(spec: Knob, value: Any) -> None:
    if spec.choices is not None:
        if value not in spec.choices:
            raise ConfigError(
                f"{spec.name} is {_shown(value)}; it must be one of {', '.join(spec.choices)}"
                f"{nearest(_shown(value), spec.choices)}"
            )
        return
    if type(value) is not spec.type:
        raise ConfigError(f"{spec.name} is {_shown(value)}; it must be of type {spec.type.__name__}")
    if spec.low is not None and not spec.low <= value <= (spec.high if spec.high is not None else value):
        raise ConfigError(f"{spec.name} is {_shown(value)}; it must be in {spec.low:g} … {spec.high:g}")


MOST_CHANNELS = 1024
"""libsndfile reads no more."""


@dataclass(frozen=True, kw_only=True)
class FrontEndConfig:
    """Log-mel front end for raw recordings; the defaults are DCASE 2020 Task 2's."""

    sample_rate: int = 16_000
    """Hz; recordings at another rate are resampled."""
    n_fft: int = 1024
    hop_length: int = 512
    channel: Channel = "auto"
    """Which channel of a recording is heard; ``auto``: of two the mean, of more the first."""

    def __post_init__(self) -> None:
        channel = self.channel
        if channel not in ("auto", "mean") and not (type(channel) is int and 0 <= channel < MOST_CHANNELS):
            raise ConfigError(
                f"channel is {_shown(channel)}; it must be auto, mean or a channel's number, 0 … {MOST_CHANNELS - 1}"
            )
        for name in ("sample_rate", "n_fft", "hop_length"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 1_000_000:
                raise ConfigError(f"{name} is {_shown(value)}; it must be an integer in 1 … 1000000")
        if self.hop_length > self.n_fft:
            raise ConfigError(f"hop_length {self.hop_length} exceeds n_fft {self.n_fft}; frames would skip samples")

    @property
    def overlap_scale(self) -> int:
        """Frames to one of a front end whose windows overlap by half, at least 1."""
        return max(1, round(self.n_fft / (2 * self.hop_length)))

    @property
    def spectrum(self) -> dict[str, int]:
        """What makes features of one channel's samples."""
        return {"sample_rate": self.sample_rate, "n_fft": self.n_fft, "hop_length": self.hop_length}


READING_RULES = 4
"""1: halves by file names with their suffix, channels always averaged, each ``.npy`` file read by its own shape, and
copies of a recording counted as recordings. 2: halves by recording, copies left out, ``.npy`` files read alike.
3: normalised features are rounded to half precision as well. 4: pseudo-anomalies last longer, in frames, where windows
overlap by more than half."""
EMBEDDED_TEST_CLIPS = 40
MOST_EMBEDDED_TEST_CLIPS = 10_000
"""80,000 clips of four ids: 141 × 64 float32 each, 3 GB of features."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which recordings a search uses: the same for all its trials, so not part of `TrialConfig`."""

    data_root: str | None = None
    """Folder with one folder per machine type; None = the embedded machines."""
    machine_type: str = "fan"
    recordings: str | None = None
    """Table (.csv) of the recordings; None = the layout of the folder decides."""
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    norm_stats_path: str | None = None
    """Normalisation statistics to load; None = computed from the training clips."""
    validation_share: float = 0.5
    """Share of the labelled test clips that ASHA and selection may see; the rest is held out."""
    embedded_test_clips: int = EMBEDDED_TEST_CLIPS
    """Normal test clips per id of an embedded machine, and as many anomalous ones; 125 make 1,000 of four ids."""
    objective: ObjectiveName = "auto"
    """What judges a training: labelled clips, pseudo-anomalies made of held-back normal clips, or both.

    It belongs to the data because it decides which clips training sees. ``auto``: what the labelled clips allow."""
    rules: int = READING_RULES
    """Version of the rules by which files become clips; runs saved before there were versions go on with 1."""

    def __post_init__(self) -> None:
        paths = (("data_root", True), ("machine_type", False), ("recordings", True), ("norm_stats_path", True))
        for name, optional in paths:
            value = getattr(self, name)
            if not isinstance(value, str) and not (optional and value is None):
                raise ConfigError(f"{name} is {_shown(value)}; it must be text")
        if type(self.validation_share) not in (int, float) or not 0.0 < self.validation_share < 1.0:
            raise ConfigError(
                f"validation_share is {_shown(self.validation_share)}; it must be a number between 0 and 1"
            )
        if self.objective not in (names := get_args(ObjectiveName)):
            raise ConfigError(
                f"objective is {_shown(self.objective)}; it must be one of {', '.join(names)}"
                f"{nearest(_shown(self.objective), names)}"
            )
        clips = self.embedded_test_clips
        if type(clips) is not int or not 2 <= clips <= MOST_EMBEDDED_TEST_CLIPS:
            raise ConfigError(
                f"embedded_test_clips is {_shown(clips)}; it must be a whole number in 2 … {MOST_EMBEDDED_TEST_CLIPS}"
            )
        if type(self.rules) is not int or not 1 <= self.rules <= READING_RULES:
            raise ConfigError(f"rules is {_shown(self.rules)}; this version reads recordings by 1 … {READING_RULES}")
        if self.source is not None and clips != EMBEDDED_TEST_CLIPS:
            raise ConfigError(
                f"embedded_test_clips is {clips}, but {'data_root' if self.data_root else 'recordings'} names "
                "recordings, which have the test clips that they have; leave one of the two out"
            )

    @property
    def source(self) -> str | None:
        """The table or folder of a user's own recordings; None = the embedded machines."""
        return self.recordings or self.data_root

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The flat names that `from_dict` takes."""
        own = [item.name for item in fields(cls) if item.name != "front_end"]
        return (*own, *(item.name for item in fields(FrontEndConfig)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the inverse of `from_dict`.

        `embedded_test_clips` and `recordings` only where they are given: runs saved before they existed compare as
        equal.
        """
        clips = self.embedded_test_clips
        return {
            "data_root": self.data_root,
            "machine_type": self.machine_type,
            **self.front_end.spectrum,
            "channel": self.front_end.channel,
            "norm_stats_path": self.norm_stats_path,
            "validation_share": self.validation_share,
            "objective": self.objective,
            "rules": self.rules,
            **({} if self.recordings is None else {"recordings": self.recordings}),
            **({} if clips == EMBEDDED_TEST_CLIPS else {"embedded_test_clips": clips}),
        }

    @classmethod
    def merged(cls, saved: Mapping[str, Any], given: Mapping[str, Any]) -> "DataConfig":
        """What was given over what a space or a run has saved. Raises ConfigError for a value that is not valid.

        Given recordings take the place of the embedded machines, and of what was saved about their amount. A table's
        name is the machine type unless another is given.
        """
        dropped = {"embedded_test_clips"} if {"data_root", "recordings"} & set(given) else set()
        named = {"machine_type": Path(given["recordings"]).stem} if "recordings" in given else {}
        kept = {name: value for name, value in saved.items() if name not in dropped}
        return cls.from_dict({**kept, **named, **given})

    @staticmethod
    def saved_by_earlier(values: Mapping[str, Any]) -> dict[str, Any]:
        """What a run saved, with what went without saying before reading had versions."""
        if "rules" in values:
            return dict(values)
        # There was no choice of an objective, or of a channel, whatever would be chosen now.
        return {"objective": Objective.LABELS.value, "rules": 1, "channel": "mean", **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataConfig":
        """The data configuration of flat names. Raises ConfigError for an unknown one."""
        known = cls.names()
        for name in values:
            if name not in known:
                raise ConfigError(f"unknown data parameter {_shown(name)}{nearest(name, known)}")
        front_end_names = {item.name for item in fields(FrontEndConfig)}
        front_end = FrontEndConfig(**{k: v for k, v in values.items() if k in front_end_names})
        return cls(front_end=front_end, **{k: v for k, v in values.items() if k not in front_end_names})
