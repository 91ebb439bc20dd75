"""What a trainer draws, counts, encodes, saves and takes up again, against the definitions worked out here."""

import math
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from tests.noise_clips import IDS, noise_train_clips
from trainable.config import TrialConfig, weight_knob
from trainable.data.clips import Split, TestClips
from trainable.errors import CheckpointError, ConfigError, DataLeakError, NonFiniteError, OtherConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.registry import LOSS_TERMS
from trainable.training import trainer as module
from trainable.training.batch import Batch, make_batch
from trainable.training.losses import OWN_TERMS, LossTerm, loss_names, register_loss_term, shown_terms
from trainable.training.phases import PhaseState
from trainable.training.state import drop_half_made_moments, make_scaler, make_state
from trainable.training.step import StepLosses, mixed_precision
from trainable.training.trainer import Trainer, as_tensor

CLIPS = noise_train_clips()
CPU = torch.device("cpu")
SMALL = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "n_patches": 2, "batch_size": 5, "num_embeddings": 16}
WHOLE = ExecutionPlan(micro_batch_clips=5)


def trainer_of(plan: ExecutionPlan = WHOLE, **flat: Any) -> Trainer:
    options = {name: flat.pop(name) for name in ("next_smaller_plan", "predict") if name in flat}
    train = flat.pop("train", CLIPS)
    config = TrialConfig.from_flat(SMALL | {"epochs": 4} | flat)
    return Trainer(config, train, IDS, plan=plan, device=CPU, dtype=torch.float64, **options)


# ---- batches ---------------------------------------------------------------------------------------------------------


def batch_of(epoch: int = 0, step: int = 0, **flat: Any) -> Batch:
    config = TrialConfig.from_flat(SMALL | flat)
    labels = torch.arange(len(CLIPS)) % 3
    return make_batch(config, CLIPS.offsets, labels, torch.tensor([3, 0, 7]), epoch=epoch, step=step)


def test_a_batch_holds_patches_of_its_clips_and_their_labels() -> None:
    batch = batch_of(n_patches=5)
    assert batch.clips == 3
    for starts, clip in zip(batch.starts_BP, (3, 0, 7), strict=True):
        begin, end = CLIPS.offsets[clip : clip + 2]
        assert ((starts >= int(begin)) & (starts + 64 <= int(end))).all()
    assert batch.id_labels_B.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("n_patches", "views"), [(1, 1), (4, 1), (5, 2), (8, 2)])
def test_a_quarter_of_the_patches_is_heard_again_rounded_up(n_patches: int, views: int) -> None:
    columns = batch_of(n_patches=n_patches).view_columns_V.tolist()
    assert len(set(columns)) == len(columns) == views
    assert set(columns) <= set(range(n_patches))


def test_every_code_has_a_row_to_be_revived_to_and_each_row_serves_as_evenly_as_it_can() -> None:
    """3 clips of 2 patches of 64 rows are 384 rows."""
    few = batch_of(num_embeddings=16).candidate_rows_K
    assert few.shape == (16,)
    assert len(set(few.tolist())) == 16
    assert 0 <= int(few.min()) < int(few.max()) < 384
    many = batch_of(num_embeddings=1000).candidate_rows_K
    assert set(torch.bincount(many, minlength=384).tolist()) == {2, 3}


def test_draws_differ_between_steps_epochs_and_seeds_and_are_the_same_again() -> None:
    def drawn(**where: int) -> list[torch.Tensor]:
        batch = batch_of(n_patches=40, stride=1, **where)
        return [batch.starts_BP, batch.view_columns_V, batch.candidate_rows_K, batch.transforms.labels_B]

    first = drawn()
    assert all(torch.equal(one, again) for one, again in zip(first, drawn(), strict=True))
    for where in ({"epoch": 1}, {"step": 1}, {"seed": 1}):
        assert not any(torch.equal(one, other) for one, other in zip(first[:3], drawn(**where), strict=False)), where


def test_a_part_of_a_batch_is_some_of_its_clips_with_the_draws_of_the_whole() -> None:
    batch = batch_of()
    part = batch.part(1, 3)
    assert part.clips == 2
    assert torch.equal(part.starts_BP, batch.starts_BP[1:])
    assert torch.equal(part.id_labels_B, batch.id_labels_B[1:])
    assert torch.equal(part.transforms.labels_B, batch.transforms.labels_B[1:])
    assert torch.equal(part.view_columns_V, batch.view_columns_V)
    assert torch.equal(part.candidate_rows_K, batch.candidate_rows_K)


# ---- epochs ----------------------------------------------------------------------------------------------------------


def clips_of(batch: Batch) -> list[int]:
    return (np.searchsorted(CLIPS.offsets, batch.starts_BP[:, 0].numpy(), side="right") - 1).tolist()


def test_an_epoch_hears_each_clip_once_in_an_order_of_its_own() -> None:
    trainer = trainer_of()
    orders = []
    for epoch in range(2):
        trainer.epoch = epoch
        batches = list(trainer._batches())
        assert [batch.clips for batch, _ in batches] == [5, 5, 4]
        assert [done for _, done in batches] == [0, 5, 10]
        orders.append([clip for batch, _ in batches for clip in clips_of(batch)])
        assert sorted(orders[-1]) == list(range(14))
        labels = [label for batch, _ in batches for label in batch.id_labels_B.tolist()]
        assert [IDS[label] for label in labels] == [CLIPS.machine_ids[clip] for clip in orders[-1]]
    assert orders[0] != orders[1]


def test_losses_of_an_epoch_are_means_over_clips_and_its_code_usage_is_that_of_all_steps() -> None:
    trainer = trainer_of()
    step, heard = module.train_step, []

    def recorded(state: Any, frames: Any, batch: Batch, *rest: Any) -> StepLosses:
        losses = step(state, frames, batch, *rest)
        heard.append((batch.clips, losses.terms_L.clone(), losses.code_counts_K.clone()))
        return losses

    with mock.patch.object(module, "train_step", recorded):
        losses = trainer.train_epoch()
    means = sum(clips * terms for clips, terms, _ in heard) / 14
    assert losses.total == pytest.approx(float(means[0]))
    assert list(losses.terms) == list(loss_names()[1:])
    assert list(losses.terms.values()) == pytest.approx(means[1:].tolist())
    counts = sum(each for *_, each in heard)
    assert int(counts.sum()) == 14 * 2 * 64
    usage = [float(count / counts.sum()) for count in counts if count]
    assert losses.perplexity == pytest.approx(math.exp(-sum(share * math.log(share) for share in usage)))
    assert losses.dead_code_share == float((counts == 0).sum()) / 16
    assert trainer.epoch == 1


def test_k_means_starts_the_codebook_once_and_only_where_asked_for() -> None:
    for asked in (True, False):
        trainer = trainer_of(kmeans_start=asked)
        with mock.patch.object(module, "start_codebook", wraps=module.start_codebook) as started:
            trainer.train_epoch()
            trainer.train_epoch()
        assert started.call_count == (1 if asked else 0)


@pytest.mark.parametrize("clips_at_once", [1, 3, 14])
def test_k_means_hears_evenly_spaced_patches_of_the_drawn_clips(clips_at_once: int) -> None:
    trainer = trainer_of(ExecutionPlan(micro_batch_clips=clips_at_once, quantizer_chunk_rows=100))
    codebook = trainer.state.model.codebook
    with (
        mock.patch.object(module, "KMEANS_CLIPS", 6),
        mock.patch.object(module, "start_codebook", wraps=module.start_codebook) as started,
        mock.patch.object(codebook, "start_from") as start_from,
    ):
        trainer._start_codebook()
    starts_BP = started.call_args.args[2]
    clips = (np.searchsorted(CLIPS.offsets, starts_BP[:, 0].numpy(), side="right") - 1).tolist()
    assert len(set(clips)) == len(clips) == 6
    assert clips != sorted(clips), "drawn, not the first ones"
    frames = torch.from_numpy(CLIPS.frames_TF).double()
    for starts, clip in zip(starts_BP.tolist(), clips, strict=True):
        begin, end = CLIPS.offsets[clip : clip + 2].tolist()
        last = (end - begin - 64) // trainer.config.patch.stride * trainer.config.patch.stride
        assert starts == [begin, begin + last]
    patches = torch.stack([frames[start : start + 64].T for start in starts_BP.flatten().tolist()])
    with torch.no_grad():
        rows = codebook.rows(trainer.state.model.encoder(patches))
    (given, _), options = start_from.call_args
    assert torch.allclose(given, rows, atol=1e-12)
    assert options == {"chunk_rows": 100}


def test_a_loss_that_is_no_number_names_the_epoch() -> None:
    trainer = trainer_of(kmeans_start=False)
    trainer.train_epoch()
    with torch.no_grad():
        next(trainer.state.model.decoder.parameters()).fill_(math.nan)
    with pytest.raises(NonFiniteError, match="the loss of epoch 2 is not finite"):
        trainer.train_epoch()
    assert trainer.epoch == 1


def test_test_clips_are_never_trained_on() -> None:
    held_out = TestClips(
        frames_TF=CLIPS.frames_TF,
        offsets=CLIPS.offsets,
        machine_ids=CLIPS.machine_ids,
        names=CLIPS.names,
        split=Split.HELD_OUT,
        labels=np.zeros(14, dtype=np.int64),
    )
    with pytest.raises(DataLeakError, match="held_out clips were offered for training"):
        Trainer(TrialConfig(), held_out, IDS, plan=WHOLE, device=CPU)  # type: ignore[arg-type]


def test_frames_on_the_device_are_those_of_the_clips_that_are_asked_for() -> None:
    """Other clips of the same split must not get what was placed for the first."""
    trainer = trainer_of(replace(WHOLE, data_placement="device"))
    with mock.patch.object(type(trainer.state), "device", torch.device("meta")):
        placed = trainer.frames(CLIPS)
        assert trainer.frames(CLIPS) is placed
        assert placed.shape == CLIPS.frames_TF.shape
        fewer = replace(CLIPS, frames_TF=CLIPS.frames_TF[:100])
        assert trainer.frames(fewer).shape == (100, 64)


def test_gradients_are_clipped_to_the_norm_asked_for_and_0_is_no_clip() -> None:
    def norm(clip: float) -> float:
        trainer = trainer_of(gradient_clip=clip, kmeans_start=False)
        ((batch, _), *_) = trainer._batches()
        trainer._step(batch, PhaseState(2, 1.0))
        gradients = [each.grad for each in trainer.state.model.parameters() if each.grad is not None]
        return float(torch.cat([each.flatten() for each in gradients]).norm())

    free = norm(0.0)
    assert free > 0.02
    assert norm(0.01) == pytest.approx(0.01, rel=1e-3)
    assert norm(free * 2) == pytest.approx(free)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_what_runs_out_of_memory_goes_on_with_the_next_smaller_plan_and_says_so() -> None:
    plans = [WHOLE, ExecutionPlan(micro_batch_clips=3), ExecutionPlan(micro_batch_clips=1)]
    smaller = dict(pairwise(plans))
    trainer = trainer_of(next_smaller_plan=smaller.get, predict=lambda plan: plan.micro_batch_clips * 2**20)
    failures = [torch.OutOfMemoryError("CUDA out of memory.\nsecond line")] * 2

    def attempt() -> str:
        if failures:
            raise failures.pop()
        return "done"

    trainer.epoch = 6
    for parameter in trainer.state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert trainer._recovering(attempt) == "done"
    assert all(each.grad is None for each in trainer.state.model.parameters()), "their memory is free"
    assert trainer.plan == plans[2]
    first, second = trainer.events
    assert first == (
        f"epoch 7: out of memory under ({WHOLE.describe()}), continued with ({plans[1].describe()}): "
        "CUDA out of memory.; predicted 5.00 MiB"
    )
    assert plans[2].describe() in second
    failures.append(torch.OutOfMemoryError("CUDA out of memory.\nsecond line"))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trainer._recovering(attempt)
    assert str(caught.value) == (
        f"CUDA out of memory.; under ({plans[2].describe()}), the smallest plan, after 2 smaller ones in this epoch"
    )


def test_without_a_planner_running_out_of_memory_ends_the_trial_and_other_errors_pass_as_they_are() -> None:
    trainer = trainer_of()
    for error in (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("another error")):
        with pytest.raises(type(error)) as caught:
            trainer._recovering(mock.Mock(side_effect=error))
        assert caught.value is error
    assert str(error) == "another error"
    assert trainer.events == []


def test_features_stay_where_they_are_on_a_cpu_and_are_not_copied() -> None:
    trainer = trainer_of()
    assert trainer.frames(CLIPS).data_ptr() == as_tensor(CLIPS.frames_TF).data_ptr()
    read_only = CLIPS.frames_TF.copy()
    read_only.setflags(write=False)
    assert as_tensor(read_only).shape == read_only.shape, "without torch's warning, which is an error here"


def test_half_precision_features_train_as_the_same_numbers_in_single_precision() -> None:
    rounded = CLIPS.frames_TF.astype(np.float16)
    trainers = []
    for frames_TF in (rounded, rounded.astype(np.float32)):
        trainers.append(trainer_of(train=replace(CLIPS, frames_TF=frames_TF)))
        trainers[-1].train_epoch()
        trainers[-1].train_epoch()
    half, single = (trainer.state.model.state_dict() for trainer in trainers)
    assert all(torch.equal(half[name], single[name]) for name in single)


def test_what_a_plan_recomputes_runs_twice_in_a_step_and_nothing_else_does() -> None:
    for encoder, decoder in ((False, False), (True, False), (False, True), (True, True)):
        plan = ExecutionPlan(micro_batch_clips=5, recompute_encoder=encoder, recompute_decoder=decoder)
        trainer = trainer_of(plan, transform_weight=0.0)
        runs: list[str] = []
        for name in ("encoder", "decoder"):
            first = getattr(trainer.state.model, name).segments[0]
            first.register_forward_pre_hook(lambda *_, name=name, runs=runs: runs.append(name))
        ((batch, _), *_) = trainer._batches()
        trainer._step(batch, PhaseState(2, 1.0))
        assert (runs.count("encoder"), runs.count("decoder")) == (1 + encoder, 1 + decoder)


def test_the_scale_of_gradients_outlives_a_change_of_plan_and_a_checkpoint() -> None:
    """In float16 on a GPU; a step is traced without one on the meta device, which scales as it does."""
    plans = [ExecutionPlan(micro_batch_clips=clips, precision="amp_float16") for clips in (5, 1)]
    config = TrialConfig.from_flat(SMALL)
    first, second = (Trainer(config, CLIPS, IDS, plan=plans[0], device=torch.device("meta")) for _ in range(2))
    grown = first.state.scaler.state_dict() | {"scale": 128.0, "_growth_tracker": 7}
    first.state.scaler.load_state_dict(grown)
    first._obey(plans[1])
    assert first.state.scaler.state_dict() == grown
    second.load_state_dict(first.state_dict())
    assert second.state.scaler.state_dict() == grown
    first._obey(WHOLE)
    assert not first.state.scaler.is_enabled()
    fresh = Trainer(
        config, CLIPS, IDS, plan=plans[1], device=torch.device("meta"), predict=lambda plan: not plan.uses_amp
    )
    begun = fresh.state.scaler.state_dict()
    fresh.load_state_dict(first.state_dict())
    assert fresh.plan == plans[1]
    assert fresh.state.scaler.state_dict() == begun, "a state in float32 has no scale to take up"


# ---- codes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score_patches", [0, 3])
@pytest.mark.parametrize("clips_at_once", [4, 14])
def test_codes_and_errors_are_those_of_each_clip_s_evenly_spaced_patches(
    score_patches: int, clips_at_once: int
) -> None:
    trainer = trainer_of(ExecutionPlan(micro_batch_clips=clips_at_once), score_patches=score_patches, stride=4)
    trainer.train_epoch()
    starts_BP, encoded = trainer.encode(CLIPS, with_errors=True)
    patches = score_patches or 2
    assert starts_BP.shape == (14, patches)
    model = trainer.state.model
    frames = torch.from_numpy(CLIPS.frames_TF).double()
    for clip in range(14):
        begin, end = CLIPS.offsets[clip : clip + 2].tolist()
        assert starts_BP[clip, 0] == begin
        assert end - 64 - 4 < starts_BP[clip, -1] <= end - 64
        heard = torch.stack([frames[start : start + 64].T for start in starts_BP[clip].tolist()])
        with torch.no_grad():
            rows_ND = model.codebook.rows(model.encoder(heard))
            nearest = torch.cdist(rows_ND, model.codebook.codebook_KD).argmin(dim=1)
            vectors_ND = model.codebook.codebook_KD[nearest]
            decoded = model.decoder(model.codebook.grid(vectors_ND))
        assert torch.equal(encoded.codes_BPHWM[clip].flatten(), nearest)
        error = float((decoded - heard).square().mean())
        assert float(encoded.reconstruction_error_B[clip]) == pytest.approx(error, rel=1e-9)
        gap = float((rows_ND - vectors_ND).square().mean())
        assert float(encoded.quantization_error_B[clip]) == pytest.approx(gap, rel=1e-9)
    assert encoded.codes_BPHWM.shape == (14, patches, 8, 8, 1)
    _, plain = trainer.encode(CLIPS)
    assert torch.equal(plain.codes_BPHWM, encoded.codes_BPHWM)
    assert plain.reconstruction_error_B.numel() == plain.quantization_error_B.numel() == 0


# ---- states ----------------------------------------------------------------------------------------------------------


def test_weights_depend_on_the_seed_alone_and_the_optimizer_has_the_configured_rates() -> None:
    config = TrialConfig.from_flat(SMALL | {"learning_rate": 0.02, "weight_decay": 0.3})
    state, again = (make_state(config, 3, CPU, torch.float64) for _ in range(2))
    other = make_state(config.replace(seed=1), 3, CPU, torch.float64)
    weights = [torch.cat([each.flatten() for each in one.model.parameters()]) for one in (state, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    (group,) = state.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
    assert sum(each.numel() for each in group["params"]) == len(weights[0])
    assert (state.dtype, state.device) == (torch.float64, CPU)
    assert make_state(config, 3, CPU).dtype == torch.float32
    assert not state.scaler.is_enabled()


def test_gradients_are_scaled_in_float16_alone_and_not_on_a_cpu() -> None:
    for precision in ("float32", "amp_bfloat16", "amp_float16"):
        plan = ExecutionPlan(micro_batch_clips=1, precision=precision)  # type: ignore[arg-type]
        assert make_scaler(plan, torch.device("meta")).is_enabled() is (precision == "amp_float16")
        assert not make_scaler(plan, CPU).is_enabled()


def test_moments_that_were_not_completed_go_and_others_stay() -> None:
    one, other = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = torch.optim.AdamW([one, other])
    optimizer.state[one] = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2)}
    optimizer.state[other] = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    drop_half_made_moments(optimizer)
    assert list(optimizer.state) == [other]


def test_a_state_is_taken_up_where_it_was_saved() -> None:
    first, second = trainer_of(), trainer_of(seed=0)
    first.train_epoch()
    saved = deepcopy(first.state_dict())  # as from a file: an optimizer keeps the tensors that it is given
    second.load_state_dict(saved)
    assert second.epoch == 1
    one, other = first.train_epoch(), second.train_epoch()
    assert one == other


def test_a_knob_that_a_state_does_not_know_has_its_default() -> None:
    trainer = trainer_of()
    saved = trainer.state_dict()
    without = {name: value for name, value in saved["config"].items() if name != "texture_weight"}
    trainer_of().load_state_dict(saved | {"config": without})
    with pytest.raises(OtherConfigError, match=r"differs in texture_weight$"):
        trainer_of(texture_weight=2.0).load_state_dict(saved | {"config": without})
    with pytest.raises(OtherConfigError, match=r"differs in learning_rate, seed, unknown$"):
        trainer_of(learning_rate=0.5, seed=3).load_state_dict(saved | {"config": saved["config"] | {"unknown": 1}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": None}, "names no configuration"),
        ({"model": {}}, "does not hold a training state"),
        ({"plan": {"unknown": 1}}, "does not hold a training state|not an execution plan"),
        ({"epoch": "many"}, "does not hold a training state"),
    ],
)
def test_what_is_no_training_state_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises((CheckpointError, ConfigError), match=message):
        trainer_of().load_state_dict(trainer_of().state_dict() | change)


def test_a_resumed_trial_keeps_to_the_smaller_of_its_plans() -> None:
    small, large = (ExecutionPlan(micro_batch_clips=clips) for clips in (1, 4))
    for mine, saved in ((small, large), (large, small)):
        trainer = trainer_of(mine, predict=lambda plan: plan.micro_batch_clips)
        trainer.load_state_dict(trainer_of(saved).state_dict())
        assert trainer.plan == small
    unpredicted = trainer_of(ExecutionPlan(micro_batch_clips=4, data_placement="host"))
    unpredicted.load_state_dict(trainer_of(small).state_dict())
    assert unpredicted.plan == ExecutionPlan(micro_batch_clips=1, data_placement="host"), "the data where this run says"


# ---- mixed precision and loss terms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", [False, True])
def test_mixed_precision_ends_with_its_block_also_after_an_error(outer: bool) -> None:
    plan = ExecutionPlan(micro_batch_clips=1, precision="amp_bfloat16")
    with torch.autocast("cpu", dtype=torch.float16, enabled=outer):
        before = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        inside: list[tuple[bool, torch.dtype]] = []
        with suppress(KeyError), mixed_precision(plan, CPU):
            inside.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            raise KeyError
        assert inside == [(True, torch.bfloat16)]
        assert (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")) == before
        with mixed_precision(WHOLE, CPU):
            assert (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")) == before


def test_what_was_cast_in_mixed_precision_is_cast_anew_after_a_change() -> None:
    """Autocast remembers casts of weights until its outermost block ends."""
    plan = ExecutionPlan(micro_batch_clips=1, precision="amp_bfloat16")
    layer, one = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    for weight in (1.0, 2.0):
        with torch.no_grad():
            layer.weight.fill_(weight)
        with mixed_precision(plan, CPU):
            assert layer(one).item() == weight


def test_a_term_counts_in_its_phases_with_its_weight_and_scale() -> None:
    config = TrialConfig.from_flat({"id_weight": 0.25, "commitment_cost": 0.5})
    terms = {term.name: term for term in OWN_TERMS}
    assert [terms["id"].weight_in(config, PhaseState(phase, 0.1)) for phase in (1, 2, 3)] == [0.0, 0.25, 0.25]
    assert [terms["reconstruction"].weight_in(config, PhaseState(phase, 0.1)) for phase in (1, 2, 3)] == [1.0] * 3
    assert terms["commitment"].weight_in(config, PhaseState(1, 0.1)) == pytest.approx(0.05)
    off = config.replace(id_weight=0.0)
    assert [terms[name].is_on(each) for each in (config, off) for name in ("id", "reconstruction")] == [
        True,
        True,
        False,
        True,
    ]


def test_a_term_counts_somewhere_and_has_a_weight_of_its_own() -> None:
    for phases in ((), (4,), (0, 1)):
        with pytest.raises(ConfigError, match="give one or more of 1, 2, 3"):
            LossTerm(name="never", value=lambda values: values.patches_XFT.mean(), weight=None, phases=phases)  # type: ignore[arg-type]
    own = OWN_TERMS[1]
    for weight in (None, own.weight):
        with pytest.raises(ConfigError, match="needs a weight of its own"):
            register_loss_term(LossTerm(name="free", value=own.value, weight=weight))
    assert shown_terms() == ()
    assert loss_names() == ("total", "reconstruction", "commitment", "texture", "id", "transform")
    assert weight_knob("of_its_own", "weighs nothing").extra


def test_a_registered_term_is_shown_beside_the_others_where_it_wants_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOSS_TERMS, "_parts", {})
    for name, shown in (("seen", True), ("unseen", False)):
        weight = weight_knob(f"{name}_weight", "weighs a test")
        register_loss_term(LossTerm(name=name, value=OWN_TERMS[0].value, weight=weight, shown=shown))
    assert loss_names()[-2:] == ("seen", "unseen")
    assert shown_terms() == ("seen",)
    with pytest.raises(ConfigError, match="already"):
        register_loss_term(LossTerm(name="seen", value=OWN_TERMS[0].value, weight=weight_knob("other_weight", "x")))
