"""What to do next, read from the results: each piece of advice says why, and gives a command if there is one."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution

from analysis.commands import resume_command, retrain_command, search_command
from analysis.importance import FEW_TRIALS
from analysis.results import PARAM, RunResults
from analysis.state import LABEL_SOME, NO_LABELS, SearchState
from analysis.tables import Table
from trainable.config import Objective
from trainable.detection.gain import gain_text
from trainable.record import TrialEnd
from trainable.units import counted

EDGE_SHARE = 0.05
"""A winner within this share of the end of its range calls for a wider range."""
RISING_AUC = 0.005
"""If the winner's value gained this much in its last quarter of epochs, it had not finished learning."""
BETTER_DENSITY_AUC = 0.01
HARDLY_AUC = 0.002
"""More trials that are expected to bring less are not worth their training."""
MANY_OVER_BUDGET = 0.3
MANY_DEAD_CODES = 0.5


@dataclass(frozen=True)
class Advice:
    """One next step."""

    title: str
    text: str
    command: str = ""


def next_steps(run: RunResults) -> list[Advice]:
    """Advice, the most useful first; never empty. While the search runs, the only advice is to wait."""
    steps = [
        *_wait_or_resume(run),
        *_widen_ranges(run),
        *_train_longer(run),
        *_other_density(run),
        *_search_more(run),
        *_budget(run),
        *_failures(run),
        *_dead_codes(run),
    ]
    if run.best_number is not None:
        steps.append(_detector(run))
        steps.append(
            Advice(
                "Begin another search where this one ended",
                "Its first trials are this run's best. To change the machine type or the budget, edit this "
                "run's in the command.",
                search_command(run),
            )
        )
        steps += _label(run)
    if run.state is SearchState.RUNNING:
        steps = [step for step in steps if not step.command]
    if not steps:
        steps.append(_nothing_trained(run))
    return steps


def _nothing_trained(run: RunResults) -> Advice:
    if run.trials["reason"].astype(bool).any():
        return Advice("Look at how trials ended", "No trial has finished an epoch; the reasons are in the table.")
    return Advice("Search again", "No trial has finished an epoch, and none says why.", resume_command(run))


def advice_table(run: RunResults) -> Table:
    """The advice of `next_steps` as a table."""
    return Table(("what", "why", "command"), tuple((s.title, s.text, s.command) for s in next_steps(run)))


def _detector(run: RunResults) -> Advice:
    if run.manifest.objective.holds_back:
        return Advice(
            "Make a detector of this search",
            "No single trial: a detector averages the best pairs of a trial and a density model, and takes its "
            "p-values from normal clips that it was not trained on."
            + ("" if run.labelled else " It can be used before any anomaly is labelled."),
            retrain_command(run),
        )
    return Advice(
        "Train the detector on all normal clips",
        "The detector that a search leaves averages models that saw the training clips only. This trains the same "
        "pairs of configuration and density model again, on the normal clips that chose them as well.",
        retrain_command(run),
    )


def _label(run: RunResults) -> list[Advice]:
    if run.labelled:
        return []
    return [
        Advice(
            "Label a few anomalies", f"{NO_LABELS} {LABEL_SOME}", search_command(run, objective=Objective.BOTH.value)
        )
    ]


def _best_row(run: RunResults) -> "pd.Series[Any] | None":
    return None if run.best_number is None else run.ranked.iloc[0]


def _wait_or_resume(run: RunResults) -> list[Advice]:
    if run.state is SearchState.RUNNING:
        return [Advice("Wait for the end", f"{run.state_text} What follows may still change.")]
    if run.state is SearchState.ENDED:
        going_on = Advice("Go on with the search", f"It ended early: {run.stopped}.", resume_command(run))
        return [going_on] if run.stopped else []
    return [
        Advice(
            "Let the search end",
            f"{run.state_text} If it was interrupted, this resumes it where it stopped. Unfinished: "
            f"{counted(run.unfinished, 'trial')}.",
            resume_command(run),
        )
    ]


def _widen_ranges(run: RunResults) -> list[Advice]:
    row = _best_row(run)
    if row is None:
        return []
    at_edge = []
    for name, distribution in run.distributions.items():
        if not isinstance(distribution, IntDistribution | FloatDistribution) or PARAM + name not in row.index:
            continue
        value, low, high = row[PARAM + name], distribution.low, distribution.high
        if not isinstance(value, int | float) or math.isnan(value) or high <= low:
            continue
        place = (
            (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
            if distribution.log
            else (value - low) / (high - low)
        )
        # 0 means "off"; it is not the end of a range that could be widened.
        if place <= EDGE_SHARE and low > 0:
            at_edge.append(f"{name} = {value:.4g} (range begins at {low:.4g})")
        elif place >= 1 - EDGE_SHARE and high != 1.0:
            at_edge.append(f"{name} = {value:.4g} (range ends at {high:.4g})")
    if not at_edge:
        return []
    return [
        Advice(
            "Widen ranges",
            "The winner lies at the end of what was searched, so a better value may lie beyond: "
            + "; ".join(at_edge)
            + ".",
        )
    ]


def _train_longer(run: RunResults) -> list[Advice]:
    number = run.best_number
    if number is None:
        return []
    curve = run.epochs_of(number)["value"].tolist()
    quarter = max(1, len(curve) // 4)
    if len(curve) < 4 or max(curve) - max(curve[:-quarter]) < RISING_AUC:
        return []
    return [
        Advice(
            "Train longer",
            f"The winner's {run.measure} still rose by {max(curve) - max(curve[:-quarter]):.3f} over its last "
            f"{quarter} of {len(curve)} epochs.",
            search_command(run, max_epochs=2 * run.manifest.max_epochs),
        )
    ]


def _other_density(run: RunResults) -> list[Advice]:
    number = run.best_number
    if number is None or run.manifest.objective.holds_back:  # its detector averages the best densities
        return []
    there = run.densities
    last = run.ranked["epochs"].iloc[0]
    there = there[(there["number"] == number) & (there["epoch"] == last) & ~there["comparison"].astype(bool)]
    if not len(there):
        return []
    density, auc = max(zip(there["density"], there["auc"], strict=True), key=lambda pair: pair[1])
    used = run.records[number].start.config.score.density
    gain = auc - run.ranked["final_auc"].iloc[0]
    if density == used or gain < BETTER_DENSITY_AUC:
        return []
    return [
        Advice(
            "Try another density model",
            f"On the winner's own codes, {density} reached a validation AUC of {auc:.3f}, "
            f"{gain:.3f} more than {used}, which the search optimised.",
        )
    ]


def _search_more(run: RunResults) -> list[Advice]:
    scored, gain = len(run.ranked), run.expected_gain
    if scored == 0 or run.state is not SearchState.ENDED or run.stopped:
        return []
    samples = max(2 * run.manifest.num_samples, FEW_TRIALS)
    if gain is not None:
        expected = f"{gain_text(gain)} (docs/search.md says how that is reckoned)."
        if gain < HARDLY_AUC:
            return [Advice("Do not search longer in this space", expected)]
        return [Advice("Search more", expected, resume_command(run, num_samples=samples))]
    if scored >= FEW_TRIALS:
        return []
    return [
        Advice(
            "Search more",
            f"Only {counted(scored, 'trial')} {'has' if scored == 1 else 'have'} a result; with fewer than "
            f"{FEW_TRIALS}, the winner depends much on chance.",
            resume_command(run, num_samples=samples),
        )
    ]


def _budget(run: RunResults) -> list[Advice]:
    share = run.end_counts()[TrialEnd.OVER_BUDGET.value] / len(run.trials)
    if share < MANY_OVER_BUDGET:
        return []
    return [
        Advice(
            "Narrow the space or raise the budget",
            f"{share:.0%} of the proposals needed more memory than the budget. They cost no training, but left less "
            "of the space to find a winner in.",
        )
    ]


def _failures(run: RunResults) -> list[Advice]:
    counts = run.end_counts()
    steps = []
    if count := counts[TrialEnd.OUT_OF_MEMORY.value]:
        steps.append(
            Advice(
                f"{counted(count, 'trial')} ran out of memory",
                "The prediction was too low, or another process used the GPU. The memory section shows "
                "predicted against measured peaks.",
            )
        )
    if count := counts[TrialEnd.NON_FINITE.value]:
        steps.append(
            Advice(
                f"{counted(count, 'trial')} diverged",
                "The loss became NaN or infinite; a lower learning_rate can avoid that.",
            )
        )
    if count := counts[TrialEnd.CRASHED.value]:
        steps.append(Advice(f"{counted(count, 'trial')} crashed", "The table of trial endings says why."))
    return steps


def _dead_codes(run: RunResults) -> list[Advice]:
    number = run.best_number
    if number is None:
        return []
    last = run.records[number].epochs[-1]
    if last.dead_code_share < MANY_DEAD_CODES:
        return []
    return [
        Advice(
            "Use a smaller codebook",
            f"{last.dead_code_share:.0%} of the winner's codes were not used in its last epoch.",
        )
    ]
