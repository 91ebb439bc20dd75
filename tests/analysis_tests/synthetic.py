"""Runs as a search writes them, made without training: a real folder, a real study, AUCs from a formula.

The formula is known, so tests can say what tables and pictures must hold: a trial's AUC, of whatever judges it, grows
with the logarithm of ``num_embeddings`` and ignores ``stride``; rungs at 1, 3 and 9 of 27 epochs each let the best
third pass. Where both judge, the pseudo-AUC is `PSEUDO_LESS` below the validation AUC.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from trainable.config import DataConfig, Objective, TrialConfig
from trainable.durable import write_json
from trainable.execution_plan import ExecutionPlan
from trainable.record import EpochReport, RunFolder, RunManifest, TrialEnd, TrialOutcome, TrialStart
from trainable.units import GIB, MIB

MAX_EPOCHS = 27
RUNGS = (1, 3, 9)
IDS = ("00", "02")
BUDGET_BYTES = 2 * GIB
STUDY_NAME = "synthetic"
DENSITY = TrialConfig().score.density
PSEUDO_LESS = 0.1
FAMILY_SPREAD = {"roughness": -0.01, "bursts": 0.01}
"""What each family's AUC differs by from the pseudo-AUC."""
PSEUDO = {
    "held_back_by_id": {"00": 12, "02": 5},
    "severities": [
        {"family": "roughness", "alpha": 0.2011, "reference_auc": 0.702, "reached": True},
        {"family": "bursts", "alpha": 40.0, "reference_auc": 0.61, "reached": False},
    ],
    "warnings": ["fewer than 8 normal clips are held back of machine id 02 (5): its pseudo-AUC is rough"],
}
"""What a manifest says about pseudo-anomalies."""
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "num_embeddings": IntDistribution(32, 512, log=True),
    "latent_dim": CategoricalDistribution((16, 32, 64)),
    "commitment_cost": FloatDistribution(0.05, 2.0, log=True),
    "stride": IntDistribution(8, 32),
    "commitment_warmup_epochs": IntDistribution(0, 5),
    "commitment_warmup_start": FloatDistribution(0.0, 1.0),
}


def make_run(
    path: Path,
    *,
    trials: int = 40,
    on_gpu: bool = True,
    finished: bool = True,
    with_study: bool = True,
    seed: int = 0,
    objective: Objective = Objective.LABELS,
    labelled: bool = True,
) -> Path:
    """A run of `trials` trials: every 8th over budget, the 5th out of memory, the 6th non-finite, the 7th crashed.

    `finished=False` leaves the last trial without an ending and the search without its summary. `labelled=False`, with
    the objective normal-only, is a run of recordings without labelled anomalies.
    """
    rng = np.random.default_rng(seed)
    folder = RunFolder(path)
    folder.write_manifest(manifest(trials, objective=objective, labelled=labelled))
    made = [_make_trial(folder, number, rng, on_gpu=on_gpu, objective=objective) for number in range(trials)]
    if not finished:
        (folder.trial_path(trials - 1) / "end.json").unlink()
    else:
        write_json(folder.summary_path, {"parts": 1})
    if with_study:
        _write_study(folder, made)
    return path


def manifest(trials: int = 0, *, objective: Objective = Objective.LABELS, labelled: bool = True) -> RunManifest:
    return RunManifest(
        name="synthetic",
        command="python -m search.run --space synthetic",
        created="2025-01-01T00:00:00+00:00",
        seed=0,
        space_name="synthetic",
        space_digest="0" * 64,
        data={**DataConfig().to_dict(), "objective": objective.value},
        clips={"train": 80, "validation": 10 * labelled, "held_out": 10 * labelled},
        data_digest="1" * 64,
        num_samples=trials,
        max_epochs=MAX_EPOCHS,
        gpu_memory_budget_bytes=BUDGET_BYTES,
        device="cpu",
        study_storage=None,
        study_name=STUDY_NAME,
        commit="",
        versions={"python": "3.11"},
        pseudo=PSEUDO if objective.holds_back else {},
    )


def expected_auc(num_embeddings: int, epoch: int) -> float:
    """What the formula gives before noise: 0.5 … 0.95."""
    width = math.log(num_embeddings / 32) / math.log(16)
    return 0.5 + (0.15 + 0.3 * width) * (1 - math.exp(-epoch / 4))


def _make_trial(
    folder: RunFolder, number: int, rng: np.random.Generator, *, on_gpu: bool, objective: Objective
) -> tuple[TrialStart, TrialOutcome, list[EpochReport]]:
    params = _draw(rng)
    over = number % 8 == 7
    plan = ExecutionPlan(micro_batch_clips=int(rng.choice([4, 8, 16])), recompute_encoder=bool(rng.integers(2)))
    predicted = int((3.0 + rng.random()) * GIB) if over else int(rng.uniform(200, 1900) * MIB)
    config = TrialConfig.from_flat({**params, "epochs": MAX_EPOCHS})
    start = TrialStart(
        number=number,
        params=params,
        config=config,
        plan=None if over else plan,
        predicted_bytes=predicted,
    )
    end, reason, last = _ending(number, params["num_embeddings"])
    reports = [
        _report(epoch, params, plan, predicted, rng, on_gpu=on_gpu, objective=objective) for epoch in range(1, last + 1)
    ]
    aucs = [report.value for report in reports]
    outcome = TrialOutcome(
        end=end,
        reason=reason,
        epochs=last,
        best_auc=max(aucs, default=None),
        final_auc=aucs[-1] if aucs else None,
    )
    folder.write_start(start)
    lines = folder.trial_path(number) / "epochs.jsonl"
    for report in reports[:1]:
        folder.append_epoch(number, report)
    if reports[1:]:
        # The same lines as append_epoch writes, without forcing each of thousands to disk.
        import json

        with lines.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(report.to_dict()) + "\n" for report in reports[1:])
    folder.write_outcome(number, outcome)
    return start, outcome, reports


def _draw(rng: np.random.Generator) -> dict[str, int | float]:
    params: dict[str, int | float] = {
        "num_embeddings": int(np.exp(rng.uniform(np.log(32), np.log(512)))),
        "latent_dim": int(rng.choice([16, 32, 64])),
        "commitment_cost": float(np.exp(rng.uniform(np.log(0.05), np.log(2.0)))),
        "stride": int(rng.integers(8, 33)),
        "commitment_warmup_epochs": int(rng.integers(0, 6)),
    }
    if params["commitment_warmup_epochs"]:  # a conditional parameter: absent in some trials
        params["commitment_warmup_start"] = float(rng.random())
    return params


def _ending(number: int, num_embeddings: int) -> tuple[TrialEnd, str, int]:
    if number % 8 == 7:
        return TrialEnd.OVER_BUDGET, "the smallest plan needs 3.2 GiB; the budget is 2 GiB", 0
    if number == 4:
        return TrialEnd.OUT_OF_MEMORY, "CUDA out of memory in epoch 2 and no smaller plan exists", 1
    if number == 5:
        return TrialEnd.NON_FINITE, "the loss of epoch 3 is not finite (nan)", 2
    if number == 6:
        return TrialEnd.CRASHED, "the worker died three times", 3
    width = math.log(num_embeddings / 32) / math.log(16)
    for rung, passing in zip(RUNGS, (0.33, 0.66, 0.85), strict=True):
        if width < passing:
            return TrialEnd.PRUNED, f"below the best third at rung {rung}", rung
    return TrialEnd.COMPLETED, "", MAX_EPOCHS


def _report(
    epoch: int,
    params: dict[str, int | float],
    plan: ExecutionPlan,
    predicted: int,
    rng: np.random.Generator,
    *,
    on_gpu: bool,
    objective: Objective,
) -> EpochReport:
    phase = 1 if epoch <= 5 else 3 if epoch > 22 else 2
    auc = min(0.999, expected_auc(int(params["num_embeddings"]), epoch) + float(rng.normal(0, 0.005)))
    seconds = 2.0 + int(params["num_embeddings"]) / 256
    return EpochReport(
        epoch=epoch,
        phase=phase,
        loss=1.0 / epoch,
        reconstruction_loss=0.8 / epoch,
        commitment_loss=0.1,
        id_loss=0.0 if phase == 1 else 0.5 / epoch,
        transform_loss=0.0 if phase == 1 else 0.4 / epoch,
        commitment_scale=1.0,
        learning_rate=1e-3,
        **_judged(auc, objective),
        perplexity=0.5 * int(params["num_embeddings"]),
        dead_code_share=0.1,
        epoch_seconds=seconds,
        train_seconds=0.8 * seconds,
        score_seconds=0.2 * seconds,
        peak_bytes=int(predicted * (0.9 + 0.12 * float(rng.random()))) if on_gpu else 0,
        predicted_bytes=predicted,
        plan=plan,
    )


def _judged(auc: float, objective: Objective) -> dict[str, Any]:
    """The entries of a report that say how well its model detects."""
    judged: dict[str, Any] = {}
    if objective is not Objective.NORMAL_ONLY:
        judged |= {
            "validation_auc": auc,
            "validation_pauc": 0.5 + (auc - 0.5) * 0.6,
            "auc_by_id": dict.fromkeys(IDS, auc),
            "pauc_by_id": dict.fromkeys(IDS, 0.5 + (auc - 0.5) * 0.6),
            "auc_by_density": {"grid_neighbours": auc, "counts": auc - 0.05},
            "comparison_auc": {"reconstruction_error": 0.55},
        }
    if objective.holds_back:
        pseudo = auc - PSEUDO_LESS * (objective is Objective.BOTH)
        by_density = {DENSITY: pseudo, "counts": pseudo - 0.05}
        judged |= {
            "pseudo_auc": pseudo,
            "pseudo_auc_by_density": {
                density: {family: mean + spread for family, spread in FAMILY_SPREAD.items()}
                for density, mean in by_density.items()
            },
        }
    return judged


def _constraints(start: TrialStart, outcome: TrialOutcome) -> dict[str, float]:
    if outcome.end is TrialEnd.OVER_BUDGET:
        return {"memory": math.log(start.predicted_bytes / BUDGET_BYTES)}
    failed = outcome.end in (TrialEnd.OUT_OF_MEMORY, TrialEnd.NON_FINITE, TrialEnd.CRASHED)
    return {"failure": 1.0} if failed else {}


def _write_study(folder: RunFolder, made: list[tuple[TrialStart, TrialOutcome, list[EpochReport]]]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder.study_path}")

    def set_pragmas(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")  # as the search writes it
        connection.execute("PRAGMA synchronous=OFF")  # a test's study need not survive a power cut

    event.listen(storage.engine, "connect", set_pragmas)
    storage.engine.dispose()
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize")
    study.add_trials(
        [
            create_trial(
                state=TrialState.COMPLETE if outcome.end is TrialEnd.COMPLETED else TrialState.PRUNED,
                value=outcome.final_auc if outcome.end is TrialEnd.COMPLETED else None,
                params=start.params,
                distributions={name: DISTRIBUTIONS[name] for name in start.params},
                user_attrs={
                    "run": "synthetic",
                    "config": start.config.flat(),
                    "outcome": asdict(outcome),
                    "predicted_bytes": start.predicted_bytes,
                    "plan": None if start.plan is None else start.plan.to_dict(),
                    "draws": 300 if outcome.end is TrialEnd.OVER_BUDGET else 1 + start.number % 3,
                },
                constraints=_constraints(start, outcome),
                intermediate_values={report.epoch: report.value for report in reports[:3]},
            )
            for start, outcome, reports in made
        ]
    )
    storage.remove_session()
    storage.engine.dispose()
