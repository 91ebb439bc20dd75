"""Warm start: a new search first proposes the best configurations of an old one."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spaces.space import Range, Space
from trainable.errors import RunError
from trainable.record import RunFolder, TrialEnd, best_first

logger = logging.getLogger(__name__)

BEST = 5
"""Configurations taken from the old run: enough to transfer its results, few enough not to dominate the search."""


def initial_proposals(run: str, space: Space, *, count: int = BEST) -> list[dict[str, Any]]:
    """Parameters of the best completed trials of another run, as far as this space can express them.

    A value outside this space's range moves to the nearest bound. A parameter that the old run did not search takes its
    value from the old trial's configuration, and a knob newer than the old run takes its default. A warning names the
    parameters that moved and those whose value is no choice of this space.

    Raises
    ------
    RunError
        If the run has no completed trial.
    """
    folder = RunFolder(Path(run))
    folder.read_manifest()
    ended = [
        record
        for record in folder.read_trials()
        if record.outcome is not None and record.outcome.end is TrialEnd.COMPLETED
    ]
    if not ended:
        raise RunError(f"--warm-start {run}: no trial of that run completed; start without it")
    ended.sort(key=lambda record: best_first(record.outcome.final_auc or 0.0 if record.outcome else 0.0, record.number))
    proposals: list[dict[str, Any]] = []
    moved: set[str] = set()
    lacking: Counter[str] = Counter()
    for record in ended:
        # Searched values override used ones: n_patches, for example, is used only up to a clip's windows.
        config = {**record.start.config.flat(), **record.start.params}
        params, lacks = _expressed(config, space)
        if lacks:
            lacking[lacks] += 1
        elif params not in proposals:
            proposals.append(params)
            moved |= {name for name, value in params.items() if value != config[name]}
        if len(proposals) == count:
            break
    if lacking:
        logger.warning(
            "--warm-start %s: %d of its configurations do not fit this space, which has no such choice of %s%s",
            run,
            lacking.total(),
            " or ".join(sorted(lacking)),
            "" if proposals else "; the search starts without a warm start",
        )
    if moved:
        logger.warning("--warm-start %s: %s moved to the nearest value of this space", run, ", ".join(sorted(moved)))
    return proposals


def taken_over_text(run: str, proposals: Sequence[dict[str, Any]]) -> str:
    """One line about the configurations that a warm start proposes first."""
    if not proposals:
        return f"warm start: no configuration of {run} can be used"
    if len(proposals) == 1:
        return f"warm start: the best configuration of {run} is proposed first"
    return f"warm start: the best {len(proposals)} configurations of {run} are proposed first"


def _expressed(config: dict[str, Any], space: Space) -> tuple[dict[str, Any], str]:
    """The space's parameters for a configuration, and the name of the first one whose choices lack its value, or ''."""
    params: dict[str, Any] = {}
    for parameter in space.parameters:
        if not space.is_active(parameter, params):
            continue
        value, distribution = config[parameter.name], parameter.distribution
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
