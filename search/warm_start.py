"""A new search that begins where an old one ended: its best configurations are proposed first."""

from pathlib import Path
from typing import Any

from spaces.space import Range, Space
from trainable.errors import RunError
from trainable.record import RunFolder, TrialEnd

BEST = 5
"""Configurations taken over: enough to carry over what matters, few enough to leave the search its own."""


def initial_proposals(run: str, space: Space, *, count: int = BEST) -> list[dict[str, Any]]:
    """Parameters of the best completed trials of another run, as far as this space can express them.

    A value outside this space's range is brought to its nearest bound; a configuration that lacks a parameter takes
    it from the old trial's whole configuration.

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
        raise RunError(f"--warm-start {run}: no trial of that run was completed; begin without it")
    ended.sort(key=lambda record: -(record.outcome.final_auc or 0.0) if record.outcome else 0.0)
    proposals: list[dict[str, Any]] = []
    for record in ended:
        # What was chosen before what was used of it: n_patches is used only up to a clip's windows.
        params = _expressed({**record.start.config, **record.start.params}, space)
        if params is not None and params not in proposals:
            proposals.append(params)
        if len(proposals) == count:
            break
    return proposals


def _expressed(config: dict[str, Any], space: Space) -> dict[str, Any] | None:
    """The space's parameters for a configuration; None if one of its choices has no such value."""
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
            return None
    return params
