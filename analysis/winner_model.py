"""The winner restored for pictures and tables that need its model. If that is impossible, each one says why."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from matplotlib.figure import Figure

from analysis.averaged import averaged
from analysis.figures.anomaly_codes import anomaly_codes, code_contrast
from analysis.figures.codebook import codebook_usage, usage_shares
from analysis.figures.detection import Detected
from analysis.figures.roc import roc_curves
from analysis.figures.scores import score_histograms
from analysis.figures.surprise import spectrogram_with_surprise
from analysis.model_view import ModelView, load_view
from analysis.results import RunResults
from analysis.state import LABEL_SOME, NO_LABELS, SearchState
from analysis.style import message_figure
from analysis.tables import Table
from trainable.data.clips import Split
from trainable.errors import ProjectError
from trainable.normal_only.pseudo import PseudoAnomalies
from trainable.scoring.clip_counts import ClipCounts
from trainable.scoring.evaluate import Evaluation
from trainable.units import counted
from trainable.yardsticks.catalogue import title_of
from trainable.yardsticks.comparison import Comparison, compare


@dataclass(frozen=True)
class WinnerModel:
    """A trial's model, or the reason for its absence."""

    run: RunResults
    view: ModelView | None
    why_not: str
    """Empty if there is a model."""
    held_out_why_not: str = ""
    """Why held-out clips are not scored although there is a model; empty if they are."""

    def held_out(self) -> Evaluation | None:
        """The evaluation on held-out clips; if it is None, `missing` says why."""
        missing = self.view is None or self.missing(Split.HELD_OUT)
        return None if self.view is None or missing else self.view.evaluation(Split.HELD_OUT)

    def missing(self, split: Split) -> str:
        """Why the labelled clips of a split have no scores; empty if they have."""
        if not self.run.labelled:
            return f"{NO_LABELS} {LABEL_SOME}"
        return self.why_not or (self.held_out_why_not if split is Split.HELD_OUT else "")

    def held_out_table(self) -> Table:
        """AUC and pAUC of each machine id on held-out clips, their mean, its 95 % interval and its clips."""
        columns = ("machine id", "AUC", "pAUC")
        held_out = self.held_out()
        if held_out is None:
            return Table(columns, ((self.missing(Split.HELD_OUT), "–", "–"),))
        low, high = held_out.interval
        rows = [(i, f"{a:.3f}", f"{held_out.pauc_by_id[i]:.3f}") for i, a in held_out.auc_by_id.items()]
        rows.append(("mean", f"{held_out.auc:.3f}", f"{held_out.pauc:.3f}"))
        rows.append(("95 % interval of the mean", f"{low:.3f} … {high:.3f}", ""))
        rows.append(("clips that judged", held_out.clips.text, ""))
        return Table(columns, tuple(rows))

    @cached_property
    def yardsticks(self) -> Comparison | None:
        """What yardsticks find on the same clips; None without held-out scores.

        From the search's summary, or computed where that has none: of older runs, of other trials than the winner.
        """
        held_out = self.held_out()
        if self.view is None or held_out is None:
            return None
        best = self.run.summary.get("best") or {}
        if (best.get("trial"), best.get("epochs")) == (self.view.number, self.view.epoch):
            saved = Comparison.from_dict(best)
            if saved is not None:
                return saved
        return compare(self.view.config, self.view.dataset, held_out)

    def yardstick_table(self) -> Table:
        """AUC of the detector and of each yardstick on held-out clips, the highest first."""
        columns = ("on the same held-out clips", "AUC")
        if self.yardsticks is None:
            return Table(columns, ((self.missing(Split.HELD_OUT) or "Yardsticks could not be measured.", "–"),))
        found, held_out = averaged(self.run), self.held_out()
        rows = [("this winner" if found is None else found.title, self.yardsticks.auc)]
        if found is not None and held_out is not None:
            rows.append(("its winner alone", held_out.auc))
        rows += [(title_of(name), auc) for name, auc in self.yardsticks.aucs.items()]
        rows.sort(key=lambda row: -row[1])
        return Table(columns, tuple((title, f"{auc:.3f}") for title, auc in rows))

    def detected(self) -> list[Detected]:
        """The detector, the winner alone and each yardstick with the AUC on held-out clips; empty if none was scored.

        A detector that the search measured is told of even where its winner cannot be restored.
        """
        best = self.run.summary.get("best") or {}
        found = averaged(self.run) if self.run.state is SearchState.ENDED else None
        rows = []
        if found is not None and found.held_out_auc is not None:
            name = f"detector, {counted(len(found.pairs), 'pair')}"
            rows.append(Detected(name, found.held_out_auc, found.held_out_interval, ours=True))
        if (held_out := self.held_out()) is not None:
            rows.append(Detected("winner alone", held_out.auc, held_out.interval, ours=True))
        compared = self.yardsticks or (Comparison.from_dict(best) if rows else None)
        return rows + [Detected(title_of(name), auc) for name, auc in (compared.aucs if compared else {}).items()]

    def clips_text(self) -> str:
        """The held-out clips that judged; empty if they are not known."""
        if (held_out := self.held_out()) is not None:
            return held_out.clips.text
        clips = ClipCounts.from_dict((self.run.summary.get("best") or {}).get("held_out_clips"))
        return "" if clips is None else clips.text

    def score_histograms(self, split: Split = Split.HELD_OUT) -> Figure:
        """Scores of normal and anomalous clips, one panel per machine id."""
        title = f"{_word(split)} scores"
        if self.view is None or self.missing(split):
            return message_figure(title, self.missing(split))
        found, clips = self.view.evaluation(split), self.view.clips(split)
        return score_histograms(found.scores, found.labels, clips.machine_ids, found.auc_by_id, title=title)

    def roc(self, split: Split = Split.HELD_OUT) -> Figure:
        """ROC curves, one per machine id, with the region of the pAUC."""
        title = f"{_word(split)} ROC"
        if self.view is None or self.missing(split):
            return message_figure(title, self.missing(split))
        found, clips = self.view.evaluation(split), self.view.clips(split)
        return roc_curves(found.scores, found.labels, clips.machine_ids, title=title)

    def codebook_usage(self) -> Figure:
        """Frequency of each code in normal training clips, and dead codes over the epochs."""
        if self.view is None:
            return message_figure("Codebook", self.why_not)
        shares = usage_shares(self.view.train_codes.codes_BPHWM.numpy(), len(self.view.trial.codebook()))
        return codebook_usage(shares, self.run.epochs_of(self.view.number))

    def anomaly_codes(self) -> Figure:
        """Which codes anomalous validation clips use more than normal ones."""
        if self.view is None or not self.run.labelled:
            return message_figure("Codes used", self.why_not or NO_LABELS)
        codes = self.view.codes(Split.VALIDATION).codes_BPHWM.numpy()
        labels = self.view.clips(Split.VALIDATION).labels
        return anomaly_codes(code_contrast(codes, labels, len(self.view.trial.codebook())))

    def surprise(self, *, anomalies: int = 1) -> list[tuple[str, Figure]]:
        """Returns for each example its description and its spectrogram with the surprise of its codes.

        First come the `anomalies` highest-scoring anomalies, then the normal clip of median score. All are validation
        clips and share one colour scale. Where no anomaly is labelled, the highest-scoring pseudo-anomaly of each
        family and a held-back clip stand in their place.
        """
        view = self.view
        if view is None:
            return [("", message_figure("Surprise of codes", self.why_not))]
        split = Split.VALIDATION if self.run.labelled else Split.HELD_BACK
        clips = view.clips(split)
        ordered = np.argsort(-view.scores(split), kind="stable")
        if self.run.labelled:
            faulty = [int(i) for i in ordered if clips.labels[i] == 1][:anomalies]
            names = {index: f"anomaly with the {_rank(rank)} score" for rank, index in enumerate(faulty)}
        else:
            names = _loudest_by_family(view.pseudo, ordered)
            faulty = list(names)
        normal = [int(i) for i in ordered[::-1] if clips.labels[i] == 0]
        middle = normal[len(normal) // 2]
        names[middle] = f"{'normal' if self.run.labelled else 'held-back'} clip with the median score"
        maps = {index: view.position_scores(split, index) for index in names}
        low = float(np.median(maps[middle][1]))
        high = float(np.quantile(maps[faulty[0]][1], 0.98))
        pictures = []
        for index, name in names.items():
            frames, surprise, starts = maps[index]
            figure = spectrogram_with_surprise(
                frames,
                surprise,
                starts,
                geometry=view.geometry,
                seconds_per_frame=view.seconds_per_frame,
                density=view.map_density.name.replace("_", " "),
                unit=view.surprise_unit,
                mel_hz=view.mel_hz,
                title=f"{clips.names[index]}: {name}",
                scale=(low, max(high, low + 1e-9)),
            )
            pictures.append((name, figure))
        return pictures


def restore_winner(
    run: RunResults, number: int | None = None, *, device: str = "cpu", held_out: bool = False
) -> WinnerModel:
    """Restores the model of a trial (the winner by default) from its newest checkpoint, or says why it has none.

    Held-out clips are scored once the search has ended, because scores seen earlier could influence choices;
    `held_out` scores them anyway.
    """
    number = run.best_number if number is None else number
    if number is None:
        return WinnerModel(run, None, "No trial has finished an epoch yet.")
    try:
        view = load_view(run, number, device=device)
    except ProjectError as error:
        return WinnerModel(run, None, f"The winner could not be restored: {error}.")
    return WinnerModel(run, view, "", "" if held_out else run.held_out_later)


def _loudest_by_family(pseudo: PseudoAnomalies, ordered: np.ndarray) -> dict[int, str]:
    """Index of each family's pseudo-anomaly that comes first in an order of all clips, and its description."""
    return {
        next(int(i) for i in ordered if pseudo.families[i] == each.family): _pseudo(each.family)
        for each in pseudo.severities
    }


def _pseudo(family: str) -> str:
    return f"pseudo-anomaly ({family}) with the highest score"


def _word(split: Split) -> str:
    return "Held-out" if split is Split.HELD_OUT else "Validation"


def _rank(rank: int) -> str:
    return "highest" if rank == 0 else f"{('second', 'third', 'fourth', 'fifth')[rank - 1]} highest"
