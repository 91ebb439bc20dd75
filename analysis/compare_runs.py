"""Two runs side by side: settings that differ, their best configurations, their cost, and which one detects more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.results import RunResults
from analysis.run_list import end_text, run_row
from analysis.state import NO_LABELS
from analysis.tables import memory_bytes, range_text, text_of
from trainable.errors import ProjectError
from trainable.scoring.clip_counts import ClipCounts, auc_text
from trainable.units import aligned, duration_text, format_bytes

NONE = "–"


@dataclass(frozen=True)
class Difference:
    """A setting or result of two runs, in words."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Gain:
    """How much more the second run detects, on held-out clips that are the same for both."""

    first_auc: float
    second_auc: float
    interval: tuple[float, float]
    """95 % interval of the difference: a bootstrap of clips that draws the same for both."""
    clips: ClipCounts

    @property
    def difference(self) -> float:
        """AUC of the second minus that of the first."""
        return self.second_auc - self.first_auc

    @property
    def text(self) -> str:
        """The difference in a sentence, and what may be said of it."""
        low, high = self.interval
        found = (
            f"held-out AUC {self.first_auc:.3f} and {self.second_auc:.3f}: second minus first {self.difference:+.3f}, "
            f"95 % interval {low:+.3f} … {high:+.3f} ({self.clips.text}, the same for both)"
        )
        if self.clips.few:
            return f"{found}; {self.clips.warning}"
        if low > 0:
            return f"{found}; the second detects more"
        return f"{found}; {'the first detects more' if high < 0 else 'these clips cannot tell which detects more'}"


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common is left out of `settings`."""

    first: RunResults
    second: RunResults
    settings: tuple[Difference, ...]
    best: tuple[Difference, ...]
    """Searched parameters of the best trials, and whatever else differs between their configurations."""
    results: tuple[Difference, ...]
    gain: Gain | None
    no_gain: str
    """Why there is no paired difference; empty if there is one."""

    def text(self) -> str:
        """The comparison for a terminal."""
        blocks = (
            ("Settings that differ", self.settings),
            ("Best configurations", self.best),
            ("Results and cost", self.results),
        )
        lines: list[str] = []
        for title, rows in blocks:
            heading = ("", str(self.first.folder.path), str(self.second.folder.path))
            cells = [heading, *((row.name, row.first, row.second) for row in rows)]
            lines += [title, *(aligned(cells, left=(0, 1, 2)) if rows else ["none"]), ""]
        return "\n".join([*lines, self.gain.text if self.gain is not None else f"No paired difference: {self.no_gain}"])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        tables = {"settings": self.settings, "best": self.best, "results": self.results}
        found = None
        if self.gain is not None:
            found = {
                "first_auc": self.gain.first_auc,
                "second_auc": self.gain.second_auc,
                "difference": self.gain.difference,
                "interval": list(self.gain.interval),
                "clips": self.gain.clips.to_dict(),
            }
        return {
            "first": str(self.first.folder.path),
            "second": str(self.second.folder.path),
            **{name: {row.name: [row.first, row.second] for row in rows} for name, rows in tables.items()},
            "held_out_gain": found,
            "no_gain": self.no_gain,
        }


def compare(first: RunResults, second: RunResults, *, with_model: bool = True, device: str = "cpu") -> Comparison:
    """Compares two runs.

    Parameters
    ----------
    with_model
        Whether to score held-out clips with both detectors, which takes what scoring them takes.
    """
    gain: Gain | str = "left out with --no-model"
    if with_model:
        gain = held_out_gain(first, second, device=device)
    return Comparison(
        first,
        second,
        _differing(_settings(first), _settings(second)),
        _best(first, second),
        _paired(_results(first), _results(second)),
        gain if isinstance(gain, Gain) else None,
        gain if isinstance(gain, str) else "",
    )


def held_out_gain(first: RunResults, second: RunResults, *, device: str = "cpu") -> Gain | str:
    """How much more the second detects, or why that cannot be said.

    The detectors that the searches left are compared, or best trials where a search left none.
    """
    for run in (first, second):
        if not run.labelled:
            return NO_LABELS
        if run.held_out_later:
            return f"{run.folder.path}: {run.held_out_later}"
    from analysis.held_out import held_out_evaluation
    from trainable.scoring.metrics import bootstrap_aucs, percentile_interval

    try:
        one, other = (held_out_evaluation(run, device=device) for run in (first, second))
    except ProjectError as error:
        return str(error)
    clips = [sorted(zip(each.names, each.machine_ids, each.labels.tolist(), strict=True)) for each in (one, other)]
    if clips[0] != clips[1]:
        return "the runs have other held-out clips, so their AUCs cannot be compared in pairs"
    # Resamples are drawn by place; clips of the same name must have the same.
    place = {name: index for index, name in enumerate(other.names)}
    order = [place[name] for name in one.names]
    gains = bootstrap_aucs(one.labels, other.scores[order], one.machine_ids) - bootstrap_aucs(
        one.labels, one.scores, one.machine_ids
    )
    return Gain(one.auc, other.auc, percentile_interval(gains), one.clips)


def _differing(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[Difference, ...]:
    return tuple(row for row in _paired(first, second) if row.first != row.second)


def _paired(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[Difference, ...]:
    names = dict.fromkeys([*first, *second])
    return tuple(Difference(name, first.get(name, NONE), second.get(name, NONE)) for name in names)


def _settings(run: RunResults) -> dict[str, str]:
    """What was asked of a run, by names for readers."""
    manifest = run.manifest
    budget = manifest.gpu_memory_budget_bytes
    listed = {"space", "data", "num_samples", "max_epochs", "budget_bytes", "seed"}
    return {
        "space": manifest.space_name,
        **{f"range of {name}": range_text(run.distributions[name]) for name in run.params if name in run.distributions},
        "recordings": manifest.source,
        **{name.replace("_", " "): text_of(value) for name, value in manifest.data.items()},
        "digest of the clips": manifest.data_digest[:12],
        "trials requested": str(manifest.num_samples),
        "epochs of a full training": str(manifest.max_epochs),
        "GPU memory budget": format_bytes(budget) if budget else "none",
        "seed": str(manifest.seed),
        "device": manifest.device,
        **{name.replace("_", " "): _short(value) for name, value in manifest.options.items() if name not in listed},
        "code": manifest.commit[:12] or "unknown commit",
        **{f"version of {name}": value for name, value in manifest.versions.items()},
    }


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) or NONE if isinstance(value, list | tuple) else text_of(value)


def _best(first: RunResults, second: RunResults) -> tuple[Difference, ...]:
    flat = [_config(run) for run in (first, second)]
    searched = dict.fromkeys([*first.params, *second.params])
    other = [name for name in dict.fromkeys([*flat[0], *flat[1]]) if name not in searched and name != "seed"]
    differing = [name for name in other if flat[0].get(name) != flat[1].get(name)]
    return tuple(
        Difference(name, *(text_of(each[name]) if name in each else NONE for each in flat))
        for name in [*searched, *differing]
        if any(name in each for each in flat)
    )


def _config(run: RunResults) -> dict[str, Any]:
    """The best trial's configuration by flat names; empty if there is no best trial."""
    return {} if run.best_number is None else run.records[run.best_number].start.config.flat()


def _results(run: RunResults) -> dict[str, str]:
    row = run_row(run)
    found = {
        "best trial": NONE if row.best_trial is None else str(row.best_trial),
        row.measure: NONE if row.best is None else f"{row.best:.3f}",
        "held-out AUC": NONE,
        "trials": f"{row.trials} of {row.requested}, {row.completed} completed",
        "epochs": f"{row.epochs:,}",
        "trained, summed over trials": duration_text(3600 * row.hours),
        "ended": end_text(run),
    }
    if row.held_out_auc is not None:
        found["held-out AUC"] = f"{auc_text(row.held_out_auc, row.held_out_interval, None)} of the {row.held_out_of}"
    if run.best_number is not None:
        best = run.ranked.iloc[0]
        memory = memory_bytes(best)
        found["memory of the best trial"] = format_bytes(memory) if memory else NONE
        found["an epoch of the best trial"] = f"{best['epoch_seconds']:.3g} s"
    return found
