"""The detector that a search left in its folder: what it averages, and how well it detects."""

from dataclasses import dataclass

from analysis.commands import retrain_command
from analysis.results import RunResults
from analysis.tables import Table
from trainable.scoring.clip_counts import ClipCounts, auc_text
from trainable.units import counted


@dataclass(frozen=True)
class Averaged:
    """The facts of a search's detector, from its summary."""

    pairs: tuple[tuple[int, str, float | None, float | None], ...]
    """Trial, density model, AUC on validation clips and on pseudo-anomalies, the best pair first."""
    held_out_auc: float | None
    """None where no clip is labelled."""
    held_out_interval: tuple[float, float] | None
    held_out_clips: ClipCounts | None = None
    """The clips that judged; None in the summaries of earlier versions."""

    @property
    def title(self) -> str:
        """What it is, for tables."""
        return f"the detector, the mean of {counted(len(self.pairs), 'pair')}"

    @property
    def held_out_text(self) -> str:
        """``0.930 (95 % interval 0.885 … 0.968; 80 normal, 80 anomalous clips)``; empty without labels."""
        if self.held_out_auc is None or self.held_out_interval is None:
            return ""
        return auc_text(self.held_out_auc, self.held_out_interval, self.held_out_clips)

    def table(self) -> Table:
        """Its pairs, each with the AUC that ranked it."""
        judged = [place for place in (2, 3) if any(pair[place] is not None for pair in self.pairs)]
        rows = [
            (str(pair[0]), pair[1].replace("_", " "), *(f"{pair[place]:.3f}" for place in judged))
            for pair in self.pairs
        ]
        columns = {2: "validation AUC", 3: "pseudo-AUC"}
        return Table(("trial", "density model", *(columns[place] for place in judged)), tuple(rows))


def averaged(run: RunResults) -> Averaged | None:
    """The detector of an ended search; None if it left none, as searches of earlier versions did not."""
    best = run.summary.get("best") or {}
    pairs = [
        (pair["trial"], pair["density"], pair["validation_auc"], pair["pseudo_auc"]) for pair in best.get("members", [])
    ]
    # Earlier versions named the pairs of a detector that was still to be trained.
    if not pairs or "detector_held_out_auc" not in best:
        return None
    interval = best["detector_held_out_interval"]
    clips = ClipCounts.from_dict(best.get("held_out_clips"))
    return Averaged(tuple(pairs), best["detector_held_out_auc"], None if interval is None else tuple(interval), clips)


def averaged_text(run: RunResults, found: Averaged) -> str:
    """Where the detector is, what it is, and how to train it on more clips."""
    text = (
        f"The search left a detector in {run.folder.detector_path}: the mean of {counted(len(found.pairs), 'pair')} "
        "of a trained trial and a density model, those that rank highest, each score in standard deviations of normal "
        "clips. "
    )
    if found.held_out_text:
        text += f"Its AUC on held-out clips, which chose nothing, is {found.held_out_text}. "
    return text + f"On all normal clips it is trained with {retrain_command(run)}."
