"""What the report says: headline, sections, tables and pictures, before any HTML."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from analysis.advice import Advice, next_steps
from analysis.averaged import averaged, averaged_text
from analysis.figures.curves import learning_curves
from analysis.figures.densities import density_comparison
from analysis.figures.detection import detection_overview
from analysis.figures.ends import trial_ends
from analysis.figures.families import family_aucs
from analysis.figures.importance import importance_bars
from analysis.figures.infeasible import infeasible_over_time, infeasible_text
from analysis.figures.memory import memory_by_plan, predicted_against_measured
from analysis.figures.parallel import parallel_coordinates
from analysis.figures.pareto import auc_against_memory, auc_against_time, memory_against_time
from analysis.figures.progress import all_curves, search_progress
from analysis.figures.rungs import asha_rungs
from analysis.front import FRONT_ROWS, time_text, unbeaten
from analysis.headline import headline
from analysis.importance import Importances, importances
from analysis.judged import judged_tables, judged_text, judged_warnings, members
from analysis.pruning import pruning_savings
from analysis.results import RunResults
from analysis.state import NO_LABELS
from analysis.style import Message
from analysis.tables import (
    Table,
    ends_table,
    front_table,
    memory_bytes,
    plans_table,
    run_table,
    searched_table,
    top_table,
)
from analysis.winner_model import WinnerModel, restore_winner
from trainable.config import Objective
from trainable.data.check import DataCheck
from trainable.data.clips import Split
from trainable.detection.gain import gain_text
from trainable.detection.ranking import competing
from trainable.durable import read_json
from trainable.errors import RunError
from trainable.record import TrialEnd
from trainable.scoring.clip_counts import ClipCounts, interval_text
from trainable.scoring.evaluate import Evaluation
from trainable.steps import Steps
from trainable.units import counted, duration_text, format_bytes
from trainable.yardsticks.catalogue import title_of
from trainable.yardsticks.comparison import Comparison

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A figure with a caption that describes it for readers who cannot see it."""

    figure: Figure
    caption: str
    wide: bool = False
    """Whether it scrolls in its own frame on a narrow screen instead of shrinking."""

    @property
    def message(self) -> str:
        """Why there is no picture; empty for a real one."""
        return self.figure.message if isinstance(self.figure, Message) else ""


def in_rows(pictures: Sequence[Picture]) -> list[tuple[Picture, ...]]:
    """The pictures that are real, by rows: a wide one alone, others in pairs; the last of an odd number is alone."""
    normal = [each for each in pictures if not each.wide and not each.message]
    pairs = [tuple(normal[start : start + 2]) for start in range(0, len(normal), 2)]
    rows: list[tuple[Picture, ...]] = []
    for each in pictures:
        if each.message:
            continue
        if each.wide:
            rows.append((each,))
        elif pairs and each is pairs[0][0]:
            rows.append(pairs.pop(0))
    return rows


@dataclass
class Section:
    """A heading and what follows it, in this order."""

    title: str
    text: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page."""

    title: str
    headline: str
    """One sentence for someone who will not read on."""
    summary: str
    """What happened, in a few sentences."""
    overview: tuple[Picture, ...]
    """How well it detects, and how the search came there."""
    tiles: tuple[tuple[str, str, str], ...]
    """(label, number, remark) of the key figures at the top."""
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


def report_content(
    run: RunResults,
    *,
    with_model: bool = True,
    held_out: bool = False,
    device: str = "cpu",
    steps: Steps | None = None,
) -> ReportContent:
    """Builds the content of a run's report. Held-out clips are scored when the search has ended, or on request.

    `steps` are told what is done.

    Without the winner's checkpoint or its recordings (or with `with_model=False`) the sections that need them say
    why they are short; the others are complete.
    """
    steps = steps or Steps()
    steps.expect(4)
    steps.begin("restoring the winner and reading its recordings")
    left_out = WinnerModel(run, None, "It was omitted on request (--no-model).")
    winner = restore_winner(run, device=device, held_out=held_out) if with_model else left_out
    if with_model and winner.view is None:
        _log.warning("%s", winner.why_not)
    steps.begin("scoring held-out clips with the winner and the yardsticks")
    evaluation, yardsticks = winner.held_out(), winner.yardsticks
    steps.begin("measuring which parameters mattered")
    found = importances(run)
    steps.begin("drawing the figures")
    sections = [
        _searched(run),
        *_recordings(run),
        _won(run, found),
        *_judged(run),
        *_detector(run),
        _held_out(winner),
        _ended(run),
        _mattered(run, found),
        _memory(run),
        _codebook(winner),
        Section("What to do next", advice=next_steps(run)),
    ]
    return ReportContent(
        title=f"Search {run.manifest.name}",
        headline=headline(run, evaluation, yardsticks),
        summary=summary_sentence(run, evaluation, yardsticks),
        overview=tuple(_overview(run, winner)),
        tiles=_tiles(run, evaluation, yardsticks),
        sections=tuple(sections),
        notes=run.notes,
    )


def summary_sentence(run: RunResults, held_out: Evaluation | None, yardsticks: Comparison | None = None) -> str:
    """What happened, in two sentences; before them, in one, that a yardstick does as well, if one does.

    Without labelled anomalies the end says that nobody knows yet how well it detects.
    """
    if yardsticks is not None and not yardsticks.beaten:
        what = "winner" if averaged(run) is None else "detector"
        return f"The {what} {yardsticks.verdict}. {summary_sentence(run, held_out)}"
    counts = run.end_counts()
    machine = run.manifest.data.get("machine_type", "unknown machine")
    trained = int((run.trials["epochs"] > 0).sum())
    one = len(run.trials) == 1
    first = f"{counted(len(run.trials), 'configuration')} of a VQ-VAE anomaly detector {'was' if one else 'were'} "
    first += f"proposed for {machine}; {trained} {'was' if trained == 1 else 'were'} trained"
    first += f", {counts['over_budget']} did not fit the memory budget." if counts["over_budget"] else "."
    if run.best_number is None:
        return f"{first} None has finished an epoch yet."
    best = run.ranked.iloc[0]
    second = f"The best, trial {run.best_number}, reached a {run.measure} of {best['final_auc']:.3f}"
    if not run.labelled:
        return f"{first} {second}. {NO_LABELS}"
    if held_out is None:
        return f"{first} {second}."
    auc = "" if run.manifest.objective is Objective.LABELS else "an AUC of "
    detector = averaged(run)
    mean = f" {detector.title[:1].upper()}{detector.title[1:]}, reaches {detector.held_out_text}." if detector else ""
    few = f" Mind: {held_out.clips.warning}." if held_out.clips.few else ""
    return f"{first} {second}, and {auc}{held_out.text} on held-out clips that took no part in choosing it.{mean}{few}"


def _overview(run: RunResults, winner: WinnerModel) -> list[Picture]:
    detected = winner.detected()
    shown = [
        Picture(
            detection_overview(detected, clips=winner.clips_text()),
            "What the search found (blue) beside methods that train no network, on the same held-out clips.",
        )
    ]
    progress = Picture(
        search_progress(run.trials, measure=run.measure),
        f"{_sentence(run.measure)} of each trial after its last epoch, by its number, and the best so far.",
    )
    return [*(shown if detected else []), progress]


def _tiles(
    run: RunResults, held_out: Evaluation | None, yardsticks: Comparison | None
) -> tuple[tuple[str, str, str], ...]:
    tiles = []
    detector = averaged(run)
    if detector is not None and detector.held_out_auc is not None:
        tiles.append(
            ("detector's held-out AUC", f"{detector.held_out_auc:.3f}", f"mean of {len(detector.pairs)} pairs")
        )
    if held_out is not None:
        tiles.append(("held-out AUC", f"{held_out.auc:.3f}", interval_text(held_out.interval, held_out.clips)))
        tiles.append(("held-out pAUC", f"{held_out.pauc:.3f}", "false alarms ≤ 10 %"))
    elif not run.labelled:
        tiles.append(("held-out AUC", "unknown", "no anomaly is labelled"))
    if yardsticks is not None:
        name = yardsticks.best
        tiles.append(("best yardstick's AUC", f"{yardsticks.aucs[name]:.3f}", f"{title_of(name)}, held-out"))
    if run.best_number is not None:
        best = run.ranked.iloc[0]
        tiles.append((run.measure, f"{best['final_auc']:.3f}", f"trial {run.best_number}, epoch {best['epochs']}"))
        peak = memory_bytes(best)
        if peak:
            how = "by the driver" if best["driver_bytes"] else "measured" if best["peak_bytes"] else "predicted"
            budget = run.manifest.gpu_memory_budget_bytes
            tiles.append(
                ("GPU memory", format_bytes(peak), f"{how}; budget {format_bytes(budget) if budget else 'none'}")
            )
    savings = pruning_savings(run.trials, run.manifest.max_epochs)
    tiles.append(("epochs trained", f"{savings.trained_epochs:,}", f"{savings.saved_epochs:,} saved by ASHA"))
    tiles.append(("training time", duration_text(3600 * savings.trained_hours), "summed over trials"))
    return tuple(tiles)


_COMPARED = {
    Objective.LABELS: "Trials are compared by AUC on validation clips; held-out clips are scored once, for the winner.",
    Objective.NORMAL_ONLY: "Trials are compared by pseudo-AUC: how well they tell normal clips that were held back "
    "from changed copies of them. No label takes part.",
    Objective.BOTH: "Trials are compared by the mean of their AUC on validation clips and of a pseudo-AUC: how well "
    "they tell normal clips that were held back from changed copies of them. Held-out clips are scored once, for the "
    "winner.",
}


def _searched(run: RunResults) -> Section:
    section = Section("What was searched", tables=[searched_table(run), run_table(run)])
    section.text.append(
        "A VQ-VAE learns to code the sound of healthy machines; a density model on its code indices says how unusual "
        f"a recording is. Training uses normal recordings only. {_COMPARED[run.manifest.objective]}"
    )
    return section


def _recordings(run: RunResults) -> list[Section]:
    """How a user's own recordings were stored; nothing of embedded machines, or of runs from before the check."""
    path = run.folder.check_path
    if not path.exists():
        return []
    try:
        check = DataCheck.from_dict(read_json(path, what="a check of recordings"))
    except ValueError as error:
        raise RunError(f"{path} is not a check of recordings: {error}; remove it to go without") from None
    heading, *rows = check.cells()
    section = Section("The recordings", tables=[Table(heading, tuple(rows))], warnings=list(check.warnings))
    section.text.append(
        "How the recordings are stored, from the least to the most of each kind: what differs between normal and "
        f"anomalous clips here is learned as if it were a fault. {' '.join(f'{each}.' for each in check.remarks)}"
    )
    return [section]


def _won(run: RunResults, found: Importances) -> Section:
    section = Section("What won, and why")
    number = run.best_number
    if number is None:
        section.text.append("No trial has finished an epoch yet.")
        return section
    section.text.append(_why(run, found))
    section.tables.append(top_table(run))
    section.pictures.append(
        Picture(
            learning_curves(run.epochs_of(number), title=f"Trial {number}"),
            "The winner's epochs, with its phases shaded.",
            wide=True,
        )
    )
    section.pictures.append(
        Picture(
            all_curves(run.epochs, run.trials, highlight=number, measure=run.measure),
            "The winner's curve among all trials'.",
        )
    )
    densities = run.densities[run.densities["number"] == number]
    config = run.records[number].start.config
    section.pictures.append(
        Picture(
            density_comparison(
                densities,
                optimised=config.score.density,
                epoch=int(run.trials["epochs"].loc[number]),
            ),
            "AUC of every density model on the same codes.",
        )
    )
    return section


def _why(run: RunResults, found: Importances) -> str:
    text = f"{_choice(run)} {_what_set_apart(found)}".strip()
    if run.manifest.objective is Objective.LABELS:
        return f"{text} Validation AUCs of winners are optimistic: {_LUCK}, so trust the held-out one."
    so = "so trust the held-out AUC" if run.labelled else "and no held-out AUC corrects it"
    return f"{text} A winner's {run.measure} is optimistic: {_LUCK}, {so}."


def _choice(run: RunResults) -> str:
    """What the winner won by; the values of trials that ended after other epochs are named, but not compared."""
    ranked, measure = run.ranked, run.measure
    completed = ranked[ranked["end"] == TrialEnd.COMPLETED.value]
    best, number = ranked["final_auc"].iloc[0], run.best_number
    if not len(completed):
        return f"No trial has completed yet; of the others, trial {number} ranks highest ({measure} {best:.3f})."
    if len(completed) == 1:
        text = f"Trial {number} is the only one that completed ({measure} {best:.3f} after its last epoch)"
    else:
        text = (
            f"Of {counted(len(completed), 'completed trial')} trial {number} has the highest {measure} after its last "
            f"epoch ({best:.3f}), {best - completed['final_auc'].iloc[1]:.3f} above the next (trial "
            f"{completed.index[1]}); the median of those that completed is {completed['final_auc'].median():.3f}"
        )
    others = ranked[ranked["end"] != TrialEnd.COMPLETED.value].sort_values("final_auc", ascending=False)
    if not len(others) or others["final_auc"].iloc[0] <= best:
        return f"{text}."
    other, row = others.index[0], others.iloc[0]
    how = f"{str(row['end']).replace('_', ' ')} after {counted(int(row['epochs']), 'epoch')}"
    return (
        f"{text}. Trial {other} stood higher ({row['final_auc']:.3f}), {how}; the winner is chosen among trials that "
        "completed."
    )


def _what_set_apart(found: Importances) -> str:
    """The parameters whose importance is beyond chance; empty without importances."""
    if not found.shares:
        return ""
    top = [f"{name} ({share:.0%})" for name, share in list(found.beyond_chance.items())[:3]]
    if not top:
        return "Which parameters set good trials apart this search does not tell: chance alone could give their shares."
    return f"What set good trials apart was chiefly {', '.join(top)}."


_LUCK = "the best of many is partly luck"


def _judged(run: RunResults) -> list[Section]:
    """How pseudo-anomalies judged, and what the detector averages; nothing where only labels did."""
    if not run.manifest.objective.holds_back:
        return []
    section = Section("Judged without anomalies", text=judged_text(run), warnings=judged_warnings(run))
    chosen = members(run)
    if chosen:
        section.text.append(
            "What tells pseudo-anomalies apart need not tell faults apart, so no single training is trusted: a "
            f"detector of this search averages {counted(len(chosen), 'pair')} of a trial and a density model, those of "
            "the last table."
        )
    section.tables += judged_tables(run)
    ranked = {record.number: record for record in competing(run.records.values())}
    last_epochs = {number: record.epochs[-1].epoch for number, record in ranked.items()}
    last = run.families[run.families["epoch"] == run.families["number"].map(last_epochs)]
    section.pictures.append(
        Picture(
            family_aucs(
                last,
                members=[(pair.trial, pair.density) for pair in chosen],
                optimised=[(number, record.start.config.score.density) for number, record in ranked.items()],
            ),
            "AUC by family of every density model of the trials that trained long enough; those that a detector "
            "averages are named.",
        )
    )
    return [section]


def _detector(run: RunResults) -> list[Section]:
    found = averaged(run)
    if found is None:
        return []
    # A search that pseudo-anomalies judge shows the pairs in its own section.
    tables = [] if run.manifest.objective.holds_back else [found.table()]
    return [Section("The detector", text=[averaged_text(run, found)], tables=tables)]


WHAT_IS_KNOWN = (
    "What is known is what an alarm means: a detector's p-values are calibrated on the normal clips held back, "
    "and bound its false alarms among recordings that are like them."
)
YARDSTICK_WORDS = (
    "Yardsticks train no network. Log-mel Mahalanobis is what a covariance finds, from the mean and deviation of each "
    "mel bin. TWFR + Gaussian weighs the loudest moments of each bin most. PCA codes put principal components and "
    "k-means in the place of this detector's encoder and codebook: what it finds beyond theirs is what training was "
    "worth."
)


def _held_out(winner: WinnerModel) -> Section:
    section = Section("Detection on held-out clips")
    if not winner.run.labelled:
        section.text += [winner.missing(Split.HELD_OUT), WHAT_IS_KNOWN]
        return section
    if winner.view is None or winner.missing(Split.HELD_OUT):
        section.text.append(winner.missing(Split.HELD_OUT))
        return section
    clips = winner.view.clips(Split.HELD_OUT)
    counts = ClipCounts.of(clips.labels)
    if counts.few:
        section.warnings.append(f"{_sentence(counts.warning)}.")
    section.tables.append(winner.held_out_table())
    section.text.append(
        f"Scored at the checkpoint of epoch {winner.view.epoch}, on {len(clips)} clips "
        f"({int(clips.labels.sum())} anomalous). pAUC looks at false-alarm rates up to 10 % only; 0.5 is chance "
        "for both."
    )
    section.tables.append(winner.yardstick_table())
    if winner.yardsticks is not None:
        what = "The winner" if averaged(winner.run) is None else "The detector"
        section.text.append(f"{what} {winner.yardsticks.verdict}. {YARDSTICK_WORDS}")
    section.pictures += [
        Picture(
            winner.score_histograms(),
            "Anomaly scores of normal and anomalous held-out clips, by machine id.",
            wide=True,
        ),
        Picture(
            winner.roc(),
            "ROC curves of the winner by machine id: the share of anomalies found (upwards) at each share of false "
            "alarms (to the right). A threshold on the score is one point of a curve; the shaded part is what pAUC "
            "averages over, where false alarms are few enough to live with.",
        ),
    ]
    return section


def _ended(run: RunResults) -> Section:
    savings = pruning_savings(run.trials, run.manifest.max_epochs)
    section = Section("How trials ended", text=[savings.text], tables=[ends_table(run)])
    if run.expected_gain is not None:
        ended = " The search ended for that (--until-flat)." if run.flat else ""
        section.text.append(f"{gain_text(run.expected_gain)}.{ended}")
    if run.stopped_text:
        section.warnings.append(_sentence(run.stopped_text))
    section.pictures.append(Picture(trial_ends(run.end_counts()), "Trials by ending."))
    section.pictures.append(
        Picture(asha_rungs(run.trials, run.manifest.max_epochs), "Trials still training, by epoch.")
    )
    return section


def _mattered(run: RunResults, found: Importances) -> Section:
    section = Section("Which parameters mattered", text=[found.note])
    if found.shares:
        section.pictures.append(
            Picture(
                importance_bars(found),
                "Importance of each parameter. Black: the middle 90 % over random halves of the trials, so how much "
                "the number would change with other trials. Red: what shuffled values give by chance; a pale bar does "
                "not pass it and says nothing.",
            )
        )
    section.pictures.append(
        Picture(
            parallel_coordinates(run.trials, run.distributions, order=list(found.shares), measure=run.measure),
            f"Every trial's parameters, coloured by its {run.measure}.",
            wide=True,
        )
    )
    return section


PLAN_WORDS = (
    "A plan's number of clips is the micro-batch; the gradients of a larger batch are accumulated over several passes. "
    "“Recompute enc” or “dec” means that the activations of the encoder or decoder are not kept for the backward pass "
    "but recomputed, which takes time and saves memory. The chunk is the number of positions that are compared with "
    "the codebook at once. “Host” or “device” says whether the recordings are in the computer's memory or on the GPU; "
    "“float32” or another type is the precision of the computation."
)


def front_words(trials: pd.DataFrame) -> str:
    """What the table of the front lists, and how much of it."""
    count = len(unbeaten(trials))
    which = f"the first {FRONT_ROWS} of {count:,}" if count > FRONT_ROWS else "the"
    return (
        f"The second table lists {which} completed trials that no other one beats, the highest value first: none is at "
        "least as good in value, memory and time at once, and better in one of them. Which of them is best depends on "
        "what memory and time are worth."
    )


EVENTS_SHOWN = 10
"""Events of the trials' memory that the report quotes; the rest are counted."""


def driver_text(trials: pd.DataFrame, *, budget_bytes: int | None) -> str:
    """What the driver counted for the trials' processes, beside the budget; empty where it did not tell."""
    counted = trials.loc[trials["driver_bytes"] > 0, "driver_bytes"]
    if not len(counted):
        return ""
    text = f"By the driver's count the largest process took {format_bytes(int(counted.max()))}"
    if budget_bytes is None:
        return f"{text}; there was no budget."
    above = [str(number) for number in counted.index[counted > budget_bytes]]
    kept = (
        f"above it: trial {', '.join(above)}" if above else f"none of the {len(counted)} that were counted exceeded it"
    )
    return f"{text} of a budget of {format_bytes(budget_bytes)}; {kept}."


def events_text(run: RunResults) -> str:
    """What happened to the trials' memory while they trained; empty if nothing did."""
    events = [
        f"trial {number}, {event}"
        for number, record in sorted(run.records.items())
        for report in record.epochs
        for event in report.events
    ]
    if not events:
        return ""
    more = f" And {len(events) - EVENTS_SHOWN} more." if len(events) > EVENTS_SHOWN else ""
    return f"What happened to memory: {'. '.join(events[:EVENTS_SHOWN])}.{more}"


def _memory(run: RunResults) -> Section:
    budget = run.manifest.gpu_memory_budget_bytes
    section = Section("What it costs: memory and time", tables=[plans_table(run), front_table(run)])
    section.text.append(
        "Peak memory is predicted before a trial starts; a trial that cannot fit the budget never starts. "
        "A trial's plan, which is how it is executed, changes memory and speed, not the result."
    )
    section.text.append(PLAN_WORDS)
    section.text.append(infeasible_text(run.trials, budget_text=run.budget_text))
    said = (driver_text(run.trials, budget_bytes=budget), events_text(run), time_text(run.trials))
    section.text += [each for each in said if each]
    section.text.append(front_words(run.trials))
    figures: list[tuple[Callable[[], Figure], str]] = [
        (
            lambda: auc_against_memory(run.trials, budget_bytes=budget, measure=run.measure),
            f"{_sentence(run.measure)} against peak memory.",
        ),
        (
            lambda: auc_against_time(run.trials, measure=run.measure),
            f"{_sentence(run.measure)} against seconds an epoch.",
        ),
        (
            lambda: memory_against_time(run.trials, measure=run.measure),
            f"Memory against seconds an epoch, coloured by {run.measure}: the ringed trials are those that nothing "
            "beats in all three.",
        ),
        (lambda: predicted_against_measured(run.trials, budget_bytes=budget), "Predicted against measured peaks."),
        (
            lambda: memory_by_plan(run.trials, budget_bytes=budget),
            "Predicted peak of every proposal, trained or not: one whose peak exceeds the budget never starts.",
        ),
        (
            lambda: infeasible_over_time(run.trials, budget_text=run.budget_text),
            "Share of the sampler's candidates that were over budget.",
        ),
    ]
    section.pictures += [Picture(draw(), caption) for draw, caption in figures]
    return section


def _codebook(winner: WinnerModel) -> Section:
    section = Section("What the codes say")
    if winner.view is None:
        section.text.append(winner.why_not)
        return section
    section.pictures += [
        Picture(winner.codebook_usage(), "Use of the codebook.", wide=True),
        Picture(winner.anomaly_codes(), "Codes that anomalies use more than normal clips.", wide=True),
    ]
    section.pictures += [
        Picture(figure, f"Spectrogram and code surprise: {name}.", wide=True) for name, figure in winner.surprise()
    ]
    section.text.append(
        "Each position of a patch (8 mel bins × 8 frames) has one code. Bright places in the lower spectrograms are "
        f"where the code surprises a density model: {winner.view.map_words}."
        + ("" if winner.run.labelled else " Pseudo-anomalies are shown in place of anomalies.")
    )
    return section


def _sentence(words: str) -> str:
    """The words with a capital letter."""
    return words[:1].upper() + words[1:]
