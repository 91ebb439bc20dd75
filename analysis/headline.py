"""The one sentence about a run for someone who will not read on: what was found, how well it detects, what it cost."""

from analysis.averaged import Averaged, averaged
from analysis.results import RunResults
from analysis.state import SearchState
from trainable.scoring.clip_counts import interval_text
from trainable.scoring.evaluate import Evaluation
from trainable.scoring.faults_found import FaultsFound, faults_found
from trainable.units import counted, duration_text
from trainable.yardsticks.catalogue import title_of
from trainable.yardsticks.comparison import Comparison


def headline(run: RunResults, held_out: Evaluation | None, yardsticks: Comparison | None = None) -> str:
    """What was found, how many faults it finds at which false alarms, and what it cost, in plain words.

    Parameters
    ----------
    held_out
        The winner's evaluation; where the search left a detector, its own numbers are told instead.
    """
    machine = run.manifest.data.get("machine_type", "this machine")
    if run.best_number is None:
        why = f" ({run.stopped})" if run.stopped else ""
        return f"The search for {machine} has found nothing yet: no trial has finished an epoch{why}."
    detector = averaged(run) if run.state is SearchState.ENDED else None
    found = f"The search for {machine} found {_what(detector)}"
    return f"{found} {_how_well(run, detector, held_out)}{_beside(yardsticks)}; it cost {_cost(run)}.{_mind(held_out)}"


def _what(detector: Averaged | None) -> str:
    return (
        "a model that" if detector is None else f"a detector, the mean of {counted(len(detector.pairs), 'pair')}, that"
    )


def _how_well(run: RunResults, detector: Averaged | None, held_out: Evaluation | None) -> str:
    if not run.labelled:
        best = run.ranked["final_auc"].iloc[0]
        return (
            "could not be tried on a fault, since none is labelled, so nobody knows yet how many it hears "
            f"(pseudo-AUC {best:.3f}, which is no AUC on faults)"
        )
    measured = _measured(detector, held_out)
    if measured is None:
        best = run.ranked["final_auc"].iloc[0]
        return (
            f"reaches a {run.measure} of {best:.3f} on the recordings that chose it, which flatter it; how well it "
            "detects on others is not known yet"
        )
    auc, interval = measured
    known = f"AUC {auc:.3f}, {interval_text(interval, None)}; 0.5 is guessing, 1 is perfect"
    faults = _faults(run, detector, held_out)
    if faults is None:
        return f"tells faults from normal sound on recordings that took no part in the search ({known})"
    return f"would find {faults.text} ({known})"


def _measured(detector: Averaged | None, held_out: Evaluation | None) -> tuple[float, tuple[float, float]] | None:
    """AUC and interval of the detector, else of the winner."""
    if detector is not None and detector.held_out_auc is not None and detector.held_out_interval is not None:
        return detector.held_out_auc, detector.held_out_interval
    return None if held_out is None else (held_out.auc, held_out.interval)


def _faults(run: RunResults, detector: Averaged | None, held_out: Evaluation | None) -> FaultsFound | None:
    """From the summary for a detector, whose scores are not kept; None where earlier versions did not count them."""
    if detector is not None:
        return FaultsFound.from_dict((run.summary.get("best") or {}).get("faults_found"))
    return None if held_out is None else faults_found(held_out.labels, held_out.scores, held_out.machine_ids)


def _beside(yardsticks: Comparison | None) -> str:
    """What needs no training and does as well, or that nothing of the kind does."""
    if yardsticks is None or yardsticks.too_few:
        return ""
    best = f"{title_of(yardsticks.best)} without a trained network ({yardsticks.aucs[yardsticks.best]:.3f})"
    if yardsticks.beaten:
        return f", more than {best}"
    return f", less than {best}" if yardsticks.gain_interval[1] < 0 else f", but no more for certain than {best}"


def _cost(run: RunResults) -> str:
    """Time of the whole search where it is known, else of its trainings."""
    seconds, device = run.summary.get("seconds"), run.manifest.device
    if seconds and run.state is SearchState.ENDED and not run.manifest.history:
        return f"{duration_text(seconds)} on {device} for {counted(len(run.trials), 'configuration')}"
    trained = duration_text(3600 * float(run.trials["hours"].sum()))
    return f"{trained} of training on {device} for {counted(len(run.trials), 'configuration')}"


def _mind(held_out: Evaluation | None) -> str:
    return f" Mind: {held_out.clips.warning}." if held_out is not None and held_out.clips.few else ""
