"""What a search proposes before it knows anything: the best of earlier runs, then configurations of the portfolio.

The portfolio, ``portfolio.yaml`` beside this file, is a short list of configurations that do well on other recordings;
`docs/search.md` says what is known of it.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spaces.space import Range, Space
from trainable.config import TrialConfig
from trainable.errors import RunError
from trainable.model.geometry import geometry_named
from trainable.record import RunFolder, TrialEnd, TrialRecord, best_first
from trainable.units import counted

logger = logging.getLogger(__name__)

BEST = 5
"""Configurations taken from one old run: enough to transfer its results, few enough not to dominate the search."""
MOST = 10
"""Configurations taken from several old runs together."""
OF_THE_GRID = ("rows", "columns")
"""Knobs whose 0 is the model's own number, which a space names."""
PORTFOLIO = Path(__file__).with_name("portfolio.yaml")


@dataclass(frozen=True)
class FirstProposals:
    """The first proposals of a search, and where they come from."""

    params: tuple[dict[str, Any], ...]
    lines: tuple[str, ...]
    """What to tell the user, one line for each source."""


def first_proposals(runs: Sequence[str], space: Space, *, portfolio: bool) -> FirstProposals:
    """The first proposals of a new search; each once.

    Parameters
    ----------
    runs
        Folders of earlier runs, or folders of such folders.

    Raises
    ------
    RunError
        If a run has no completed trial.
    """
    params: list[dict[str, Any]] = []
    lines = []
    if runs:
        params = of_runs(runs, space)
        lines.append(_taken_over(runs, len(params)))
    if portfolio:
        more = [each for each in of_portfolio(space) if each not in params]
        params += more
        if more:
            lines.append(
                f"portfolio: {counted(len(more), 'configuration')} that did well on other recordings "
                f"{'is' if len(more) == 1 else 'are'} proposed {'next' if runs else 'first'} (not with --no-portfolio)"
            )
    return FirstProposals(tuple(params), tuple(lines))


def of_portfolio(space: Space) -> list[dict[str, Any]]:
    """Configurations of the portfolio that a space holds as they are, in their order, each once."""
    content = yaml.safe_load(PORTFOLIO.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = []
    for values in content["configurations"]:
        config = TrialConfig.from_flat({**content["fixed"], **values}).flat()
        params, lacks = expressed(config, space)
        if not lacks and all(value == config[name] for name, value in params.items()) and params not in found:
            found.append(params)
    return found


def of_runs(runs: Sequence[str], space: Space) -> list[dict[str, Any]]:
    """Parameters of the best completed trials of earlier runs, as far as this space can express them.

    The best of each run come first, then the second ones, and so on. A value outside this space's range moves to the
    nearest bound. A parameter that the old run did not search takes its value from the old trial's configuration, and a
    knob newer than the old run takes its default. A warning names the parameters that moved and those whose value is no
    choice of this space.

    Raises
    ------
    RunError
        If a run that is named, or every run of a folder that is named, has no completed trial.
    """
    found = [_of_run(path, space) for run in runs for path in _runs_in(Path(run))]
    most = BEST if len(found) == 1 else MOST
    proposals: list[dict[str, Any]] = []
    for place in range(BEST):
        for params in found:
            if place < len(params) and params[place] not in proposals:
                proposals.append(params[place])
    return proposals[:most]


def _runs_in(path: Path) -> list[Path]:
    """A run's folder itself, or the runs with a completed trial in a folder of runs."""
    inside = [] if RunFolder(path).manifest_path.exists() or not path.is_dir() else sorted(path.glob("*/manifest.json"))
    if not inside:
        RunFolder(path).read_manifest()
        if not _completed(path):
            raise RunError(f"--warm-start {path}: no trial of that run completed; start without it")
        return [path]
    finished = [each.parent for each in inside if _completed(each.parent)]
    if not finished:
        raise RunError(f"--warm-start {path}: no trial of the runs in that folder completed; start without it")
    return finished


def _completed(run: Path) -> list[TrialRecord]:
    """The completed trials of a run, the best first. Raises RunError if one has another value than it has reported."""
    records = RunFolder(run).read_trials()
    for record in records:
        if not record.ends_as_reported:
            raise RunError(
                f"--warm-start {run}: the value of trial {record.number} in end.json is not that of its last report; "
                "restore the run from a copy, or start without it"
            )
    ended = [
        (best_first(record.outcome.final_auc or 0.0, record.number), record)
        for record in records
        if record.outcome is not None and record.outcome.end is TrialEnd.COMPLETED
    ]
    return [record for _, record in sorted(ended, key=lambda each: each[0])]


def _of_run(run: Path, space: Space) -> list[dict[str, Any]]:
    """The best of one run in this space's terms, at most `BEST`."""
    proposals: list[dict[str, Any]] = []
    moved: set[str] = set()
    lacking: Counter[str] = Counter()
    for record in _completed(run):
        # Searched values override used ones: n_patches, for example, is used only up to a clip's windows.
        config = {**record.start.config.flat(), **record.start.params}
        params, lacks = expressed(config, space)
        if lacks:
            lacking[lacks] += 1
        elif params not in proposals:
            proposals.append(params)
            moved |= {name for name, value in params.items() if value != config[name]}
        if len(proposals) == BEST:
            break
    if lacking:
        logger.warning(
            "--warm-start %s: %d of its configurations do not fit this space, which has no such choice of %s%s",
            run,
            lacking.total(),
            " or ".join(sorted(lacking)),
            "" if proposals else "; the search starts without them",
        )
    if moved:
        logger.warning("--warm-start %s: %s moved to the nearest value of this space", run, ", ".join(sorted(moved)))
    return proposals


def _taken_over(runs: Sequence[str], count: int) -> str:
    """One line about the configurations that a warm start proposes first."""
    named = ", ".join(runs)
    if not count:
        return f"warm start: no configuration of {named} can be used"
    if count == 1:
        return f"warm start: the best configuration of {named} is proposed first"
    return f"warm start: the best {count} configurations of {named} are proposed first"


def expressed(config: dict[str, Any], space: Space) -> tuple[dict[str, Any], str]:
    """The space's parameters for a configuration, and the name of the first one whose choices lack its value, or ''.

    A value outside a range moves to the nearest bound.
    """
    params: dict[str, Any] = {}
    for parameter in space.parameters:
        if not space.is_active(parameter, params):
            continue
        value, distribution = config[parameter.name], parameter.distribution
        if parameter.name in OF_THE_GRID and value == 0 and not distribution.contains(0):
            value = getattr(geometry_named(config["model"]), parameter.name)
        if isinstance(distribution, Range):
            value = min(max(value, distribution.low), distribution.high)
            if distribution.step:
                value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
            params[parameter.name] = int(value) if distribution.integer else float(value)
        elif value in distribution.values:
            params[parameter.name] = value
        else:
            return params, parameter.name
    return params, ""
