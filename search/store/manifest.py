"""The manifest of a run, written before it starts, and the settings that a resume may change."""

import dataclasses
import platform
import re
import secrets
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search.options import SearchOptions
from spaces.space import Choices, Distribution, Space
from trainable.commands import as_called
from trainable.errors import RunError
from trainable.record import RunManifest
from trainable.redaction import redact
from trainable.units import format_bytes

PACKAGES = ("torch", "ray", "optuna", "numpy", "scikit-learn")
FREE = frozenset(
    {"num_samples", "concurrency", "time_limit_seconds", "trial_timeout_seconds", "local", "address", "device"}
    | {"max_failures", "study_storage", "storage_path", "mlflow", "wandb", "listeners", "checkpoint_limit_bytes"}
    | {"budget_words", "until_flat"}
)
"""Options that a resume may change freely: they do not affect a trial's result."""
_DEFAULTS = {each.name: each.default for each in dataclasses.fields(SearchOptions)}
"""An option that an older version's manifest lacks had the value that is now the default."""


def new_manifest(
    name: str,
    space: Space,
    options: SearchOptions,
    *,
    argv: Sequence[str],
    data_digest: str,
    device: str,
    clips: Mapping[str, int] | None = None,
    initial: Sequence[dict[str, Any]] = (),
    pseudo: Mapping[str, Any] | None = None,
) -> RunManifest:
    """The manifest of a new run.

    Parameters
    ----------
    clips
        Number of clips in each split.
    initial
        Parameters of the first proposals.
    pseudo
        `PseudoAnomalies.to_dict`, where they judge.
    """
    run_id = new_run_id(name)
    return RunManifest(
        name=name,
        run_id=run_id,
        command=command_line(argv),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=options.seed,
        space_name=space.name,
        space_digest=space.digest,
        data=options.data.to_dict(),
        data_digest=data_digest,
        num_samples=options.num_samples,
        max_epochs=options.max_epochs,
        gpu_memory_budget_bytes=options.budget_bytes,
        device=device,
        study_storage=None if options.study_storage is None else redact(options.study_storage),
        # In a shared storage, two runs of the same name must not share a study by accident.
        study_name=options.study_name or (name if options.study_storage is None else run_id),
        commit=_commit(),
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        options=options.to_dict(),
        clips=dict(clips or {}),
        initial=tuple(initial),
        pseudo=dict(pseudo or {}),
    )


def new_run_id(name: str) -> str:
    """A unique identifier that starts with the run's name and has only characters that any storage accepts."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:40]}-{secrets.token_hex(6)}"


def resumed_manifest(
    old: RunManifest,
    space: Space,
    options: SearchOptions,
    *,
    argv: Sequence[str],
    data_digest: str,
    device: str,
    allow_changes: bool,
    old_space: Space | None = None,
    clips: Mapping[str, int] | None = None,
    pseudo: Mapping[str, Any] | None = None,
) -> RunManifest:
    """The manifest of a resumed run, with the changes in its history.

    Parameters
    ----------
    old_space
        The space in the run's folder, if it could be read; used to list the differences from `space`.

    Raises
    ------
    RunError
        If the space, the data, the budget or another option that affects results differs, unless `allow_changes`; if
        it was judged by pseudo-anomalies that this version does not make.
    """
    _refuse_other_families(old, pseudo or {})
    changes = _changes(old, old_space, space, options, data_digest, clips or {})
    if changes and not allow_changes:
        raise RunError(
            f"the run {old.name} was started with other settings: {'; '.join(changes)}; "
            "resume it with the same ones, or use --allow-changes to resume anyway"
        )
    entry: dict[str, Any] = {
        "resumed": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(argv),
        "commit": _commit(),
        "changes": changes,
    }
    return dataclasses.replace(
        old,
        space_digest=space.digest,
        data=options.data.to_dict(),
        data_digest=data_digest,
        clips=dict(clips or old.clips),
        pseudo=dict(pseudo or {}),
        seed=options.seed,
        num_samples=options.num_samples,
        max_epochs=options.max_epochs,
        gpu_memory_budget_bytes=options.budget_bytes,
        device=device,
        study_storage=None if options.study_storage is None else redact(options.study_storage),
        study_name=_study_name(old, options),
        options=options.to_dict(),
        history=(*old.history, entry),
    )


def _refuse_other_families(old: RunManifest, pseudo: Mapping[str, Any]) -> None:
    """Values by different pseudo-anomalies do not compare. Raises RunError."""
    was, now = _families(old.pseudo), _families(pseudo)
    if old.objective.holds_back and now and was != now:
        begun = f" (commit {old.commit[:12]})" if old.commit else ""
        raise RunError(
            f"the run {old.name} is judged by pseudo-anomalies {', '.join(was) or 'of an earlier version'}, and this "
            f"version makes {', '.join(now)}, whose AUCs do not compare with theirs; resume it with the version "
            f"that began it{begun}, or begin another run"
        )


def _families(pseudo: Mapping[str, Any]) -> list[str]:
    """The families that a manifest names; none where it holds something else."""
    severities = pseudo.get("severities")
    found = severities if isinstance(severities, list) else []
    return [str(each["family"]) for each in found if isinstance(each, dict) and "family" in each]


def _study_name(old: RunManifest, options: SearchOptions) -> str:
    """The study stays the same, unless another is named or the run moves from its folder to a database."""
    if options.study_name is not None:
        return options.study_name
    moves = old.study_storage is None and options.study_storage is not None
    return old.identity if moves else old.study_name


def _changes(
    old: RunManifest,
    old_space: Space | None,
    space: Space,
    options: SearchOptions,
    data_digest: str,
    clips: Mapping[str, int],
) -> list[str]:
    changes = []
    if space.digest != old.space_digest:
        differences = [] if old_space is None else space_differences(old_space, space)
        shown = ", ".join(differences) or "other parameters or values than at the start of the run"
        changes.append(f"space {old.space_name}: {shown}")
    was, now = {**_DEFAULTS, **old.options}, options.to_dict()
    old_data, new_data = old.data, now.pop("data")
    for key in new_data:
        if old_data.get(key) != new_data[key]:
            changes.append(f"{key} {old_data.get(key)!r} → {new_data[key]!r}")
    if data_digest != old.data_digest and not any(old_data.get(key) != new_data[key] for key in new_data):
        counts = ", ".join(value_differences(old.clips, clips)) if old.clips else ""
        shown = f"clips {counts}" if counts else "the same number of clips, but different ones"
        changes.append(f"the recordings of {options.data.source or 'the embedded machine'} have changed ({shown})")
    for key, value in now.items():
        if key not in FREE and key != "space" and was.get(key) != value:
            words = [format_bytes(v) if key == "budget_bytes" and v else str(v) for v in (was.get(key), value)]
            changes.append(f"{key} {words[0]} → {words[1]}")
    return changes


def command_line(argv: Sequence[str]) -> str:
    """The command line as given, without credentials in URLs."""
    shown = [redact(word) if "://" in word else word for word in argv]
    return as_called(shlex.join(["python", "-m", "search.run", *shown]))


def _commit() -> str:
    """Commit of this code's repository; empty if it is not in one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def space_differences(old: Space, new: Space) -> list[str]:
    """One phrase for each parameter or fixed value that was added, removed or changed."""
    before = {parameter.name: parameter for parameter in old.parameters}
    after = {parameter.name: parameter for parameter in new.parameters}
    differences = []
    for name in sorted(before.keys() | after.keys()):
        shown = [
            "not searched" if name not in space else _shown(space[name].distribution, space[name].when)
            for space in (before, after)
        ]
        if shown[0] != shown[1]:
            differences.append(f"{name} {shown[0]} → {shown[1]}")
    for what, was, now in (("fixed", old.fixed, new.fixed), ("data", old.data, new.data)):
        differences += [f"{what} {each}" for each in value_differences(was, now)]
    return differences


def value_differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``name old → new`` for each value that differs."""
    return [
        f"{name} {was.get(name, 'none')} → {now.get(name, 'none')}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]


def _shown(distribution: Distribution, when: Any) -> str:
    if isinstance(distribution, Choices):
        text = f"[{', '.join(str(value) for value in distribution.values)}]"
    else:
        text = f"{distribution.low:g} … {distribution.high:g}"
        text += " log" if distribution.log else ""
        text += f" step {distribution.step:g}" if distribution.step else ""
        text += " integer" if distribution.integer else ""
    if when is not None:
        values = f"above {when.above:g}" if when.above is not None else f"in {list(when.values or ())}"
        text += f" when {when.parameter} {values}"
    return text
