"""What is to be said about a search that pseudo-anomalies judged: how, how far to trust it, what its detector averages.

Every function gives something empty for a run that labels alone judged.
"""

from analysis.results import RunResults
from analysis.tables import Table
from trainable.detection.ranking import Pair, choose_members, ranking_warnings
from trainable.normal_only.families import FAMILIES
from trainable.units import counted

NO_PROMISE = (
    "A pseudo-AUC is no AUC on real faults: it ranks trainings, and does not say how many faults are heard. Families "
    "weigh the same: each ranks all pairs of a trial that trained long enough and a density model, and the mean of the "
    "ranks decides."
)


def members(run: RunResults) -> list[Pair]:
    """The pairs of a trial and a density model that a detector of this run averages, the best first."""
    return choose_members(run.records.values()) if run.manifest.objective.holds_back else []


def judged_text(run: RunResults) -> list[str]:
    """What was held back, and what a pseudo-AUC means: one paragraph each."""
    if not run.manifest.objective.holds_back:
        return []
    by_id = run.manifest.pseudo.get("held_back_by_id", {})
    held_back = f"{counted(sum(by_id.values()), 'normal clip')} " if by_id else "Some normal clips "
    held_back += "were held back from training and from density models"
    if by_id:
        held_back += f" ({', '.join(f'id {machine_id}: {count}' for machine_id, count in by_id.items())})"
    also = "" if run.manifest.pseudo.get("severities") else " What they were made like is not recorded."
    return [
        f"{held_back}. Pseudo-anomalies are changed copies of them; a training is judged by how well its density model "
        f"tells the changed from the unchanged.{also}",
        NO_PROMISE,
    ]


def judged_warnings(run: RunResults) -> list[str]:
    """What makes the choice worth less, one sentence each."""
    if not run.manifest.objective.holds_back:
        return []
    found = [*run.manifest.pseudo.get("warnings", []), *ranking_warnings(run.records.values())]
    return [f"{each[:1].upper()}{each[1:]}." for each in found]


def families_table(run: RunResults) -> Table:
    """Each family of pseudo-anomalies: what it does, how severely, and how well a covariance hears it."""
    titles = {family.name: family.title for family in FAMILIES}
    rows = []
    for severity in run.manifest.pseudo.get("severities", []):
        name, auc = severity["family"], f"{severity['reference_auc']:.3f}"
        rows.append(
            (
                name,
                titles.get(name, "of another version of this project"),
                f"{severity['alpha']:.3g}",
                auc if severity["reached"] else f"{auc} (its target was not reached)",
            )
        )
    return Table(("family", "what it does to a clip", "severity", "log-mel Mahalanobis hears it: AUC"), tuple(rows))


def members_table(run: RunResults) -> Table:
    """The pairs that a detector averages, with the pseudo-AUC of each family."""
    chosen = members(run)
    families = sorted({family for pair in chosen for family in pair.auc_by_family})
    rows = [
        (
            str(pair.trial),
            pair.density.replace("_", " "),
            *(f"{pair.auc_by_family[family]:.3f}" for family in families),
            f"{pair.pseudo_auc:.3f}",
            f"{pair.rank:.3g}",
        )
        for pair in chosen
    ]
    return Table(("trial", "density model", *families, "mean", "mean rank"), tuple(rows))


def judged_tables(run: RunResults) -> list[Table]:
    """The tables above, without those that have no row."""
    return [table for table in (families_table(run), members_table(run)) if table.rows]
