"""The planner picks the fastest plan that fits, says why none does, and always finds a smaller one or ends."""

import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.device.cap import allocator_cap_bytes, cap_process_memory, pin_settings
from trainable.errors import BudgetError, ConfigError
from trainable.execution_plan import ExecutionPlan, PlanRequest
from trainable.memory import predict
from trainable.memory.allocator import SMALL_UNIT_BYTES
from trainable.memory.planner import Planner
from trainable.memory.predict import DataSizes
from trainable.memory.profile import DeviceProfile, MeasuredPeak
from trainable.memory.program import NotProportionalError
from trainable.units import GIB, MIB, format_bytes

DATA = DataSizes(train_frames=1_000_000, test_frames=250_000, train_clips=3_500, test_clips=400, n_ids=4)
PATCH_BYTES = 64 * 64 * 4
WIDE = TrialConfig.from_flat({"width": 4.0, "n_patches": 16})

pytestmark = pytest.mark.slow

configs = st.builds(
    lambda **flat: TrialConfig.from_flat(flat),
    width=st.sampled_from([0.5, 4.0]),
    latent_dim=st.integers(2, 1024),
    num_embeddings=st.integers(2, 65_536),
    batch_size=st.integers(1, 64),
    n_patches=st.integers(1, 32),
)


def planner(budget_bytes: int | None = None, **request: object) -> Planner:
    return Planner(DATA, budget_bytes=budget_bytes, request=PlanRequest(**request))  # type: ignore[arg-type]


def test_without_a_budget_the_whole_batch_is_trained_at_once() -> None:
    choice = planner().plan(WIDE)
    assert choice.fits
    assert choice.plan == ExecutionPlan(micro_batch_clips=16)
    assert sum(choice.breakdown.values()) == choice.predicted_bytes > GIB


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs, budget_mib=st.integers(600, 20_000))
def test_the_choice_fits_and_no_faster_plan_does(config: TrialConfig, budget_mib: int) -> None:
    asked = planner(budget_mib * MIB)
    choice = asked.plan(config)
    predicted = {plan: asked.predict(config, plan).predicted_bytes for plan in asked.candidates(config)}
    if not choice.fits:
        assert choice.predicted_bytes == min(predicted.values()) > budget_mib * MIB
        assert "\n" not in choice.reason
        assert choice.plan.describe() in choice.reason
        return
    assert choice.predicted_bytes == predicted[choice.plan] <= budget_mib * MIB
    time = asked.relative_time(config, choice.plan)
    faster = [plan for plan in predicted if asked.relative_time(config, plan) < time]
    assert all(predicted[plan] > budget_mib * MIB for plan in faster)


@pytest.mark.parametrize("width", [0.125, 0.25, 1.0])
@pytest.mark.parametrize("latent_dim", [8, 256])
def test_nothing_smaller_is_overlooked_where_mixed_precision_is_allowed(width: float, latent_dim: int) -> None:
    """In narrow models float32 may need less than mixed precision."""
    config = TrialConfig.from_flat(
        {"width": width, "latent_dim": latent_dim, "n_patches": 1, "batch_size": 1, "allow_amp": True}
    )
    choice = planner(560 * MIB).plan(config)
    assert not choice.fits
    asked = planner()
    least = min(asked.predict(config, plan).predicted_bytes for plan in asked.candidates(config))
    assert choice.predicted_bytes - SMALL_UNIT_BYTES <= least <= choice.predicted_bytes


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs)
def test_smaller_plans_need_less(config: TrialConfig) -> None:
    asked = planner()
    peak = {plan: asked.predict(config, plan) for plan in asked.candidates(config)}
    for plan, prediction in peak.items():
        more = _gradients_bytes(config, asked)
        if prediction.peak_pass == "codebook start":  # the patches of the last micro-batch lie beside k-means
            more = plan.micro_batch_clips * config.patch.n_patches * PATCH_BYTES
        for other, other_prediction in peak.items():
            same = (plan.recompute_encoder, plan.recompute_decoder) == (
                other.recompute_encoder,
                other.recompute_decoder,
            )
            if same and plan.data_placement == other.data_placement and plan.precision == other.precision:
                smaller = plan.micro_batch_clips <= other.micro_batch_clips
                if smaller and plan.quantizer_chunk_rows <= other.quantizer_chunk_rows:
                    # Of the tensors: what the allocator reserves beside them depends on how they follow each other.
                    assert prediction.allocated_bytes <= other_prediction.allocated_bytes + more


def _gradients_bytes(config: TrialConfig, asked: Planner) -> int:
    """Splitting a batch keeps gradients while activations are made; where those are few it may need that much more."""
    return asked.predict(config, ExecutionPlan(micro_batch_clips=1)).breakdown["parameters"] * 2


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs)
def test_next_smaller_falls_until_there_is_none(config: TrialConfig) -> None:
    asked = planner()
    plan: ExecutionPlan | None = ExecutionPlan(micro_batch_clips=config.patch.batch_size)
    sizes = []
    while plan is not None:
        sizes.append(asked.predict(config, plan).predicted_bytes)
        plan = asked.next_smaller(config, plan)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert sizes[-1] <= min(asked.predict(config, plan).predicted_bytes for plan in asked.candidates(config))


def test_explicit_flags_fix_their_part() -> None:
    kept = planner(8 * GIB, recompute=False)
    assert not any(plan.recompute_encoder or plan.recompute_decoder for plan in kept.candidates(WIDE))
    choice = planner(8 * GIB, micro_batch_clips=2, recompute=True).plan(WIDE)
    assert choice.fits
    assert (choice.plan.micro_batch_clips, choice.plan.recompute_encoder, choice.plan.recompute_decoder) == (
        2,
        True,
        True,
    )
    smaller = planner(micro_batch_clips=2, recompute=True).next_smaller(WIDE, choice.plan)
    while smaller is not None:
        assert (smaller.micro_batch_clips, smaller.recompute_encoder) == (2, True)
        smaller = planner(micro_batch_clips=2, recompute=True).next_smaller(WIDE, smaller)


@pytest.mark.parametrize("saver", [False, True])
def test_the_smallest_plan_is_the_smallest_that_the_other_flags_allow(saver: bool) -> None:
    asked = planner(smallest=True, memory_saver=saver)
    choice = asked.plan(WIDE)
    assert choice.fits
    assert choice.predicted_bytes == min(asked.predict(WIDE, plan).predicted_bytes for plan in asked.candidates(WIDE))
    assert asked.predict(WIDE, choice.plan).predicted_bytes == choice.predicted_bytes
    assert (choice.plan.micro_batch_clips, choice.plan.uses_amp) == (1, saver)


def recipes_own(clips: int, **parts: object) -> ExecutionPlan:
    """The whole batch or a part of it, in half precision and recomputed, as the recipe has it."""
    both = {"recompute_encoder": True, "recompute_decoder": True, "precision": "amp_bfloat16"}
    return ExecutionPlan(micro_batch_clips=clips, **both, **parts)  # type: ignore[arg-type]


def test_memory_saver_holds_the_whole_batch_in_half_precision_and_recomputes_it() -> None:
    """Also where the configuration allows no mixed precision: the flag asks for it, as `--use-amp` does."""
    choice = planner(memory_saver=True).plan(WIDE.replace(allow_amp=False))
    assert choice.plan == recipes_own(16)
    assert choice.allocated_bytes < planner().plan(WIDE).allocated_bytes
    assert planner(8 * GIB, memory_saver=True).plan(WIDE).plan == recipes_own(16)
    assert planner(memory_saver=True, micro_batch_clips=4).plan(WIDE).plan == recipes_own(4)


def test_memory_saver_splits_the_batch_only_where_no_whole_one_fits() -> None:
    asked = planner(memory_saver=True)
    whole = [
        asked.predict(WIDE, plan).predicted_bytes for plan in asked.candidates(WIDE) if plan.micro_batch_clips == 16
    ]
    tight = planner(min(whole), memory_saver=True).plan(WIDE)
    assert tight.fits
    assert tight.plan.micro_batch_clips == 16
    below = planner(min(whole) - 1, memory_saver=True)
    split = below.plan(WIDE)
    assert split.fits
    fastest = min(
        (plan for plan in below.candidates(WIDE) if below.predict(WIDE, plan).predicted_bytes < min(whole)),
        key=lambda plan: below.relative_time(WIDE, plan),
    )
    assert split.plan == fastest
    assert (split.plan.recompute_encoder, split.plan.recompute_decoder, split.plan.uses_amp) == (True, True, True)
    assert split.plan.micro_batch_clips < 16


def test_memory_saver_goes_on_in_half_precision_after_running_out() -> None:
    asked, plan, sizes = planner(memory_saver=True), recipes_own(16), []
    while (smaller := asked.next_smaller(WIDE, plan)) is not None:
        assert (smaller.recompute_encoder, smaller.recompute_decoder, smaller.uses_amp) == (True, True, True)
        plan = smaller
        sizes.append(asked.predict(WIDE, plan).predicted_bytes)
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) > 2


@pytest.mark.parametrize(
    ("allowed", "requested", "amp"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True), (False, False, False)],
)
def test_amp_only_where_allowed_or_asked_for(allowed: bool, requested: bool | None, amp: bool) -> None:
    choice = planner(amp=requested).plan(WIDE.replace(allow_amp=allowed))
    assert choice.fits
    assert choice.plan.uses_amp is amp


def test_planner_travels_and_agrees_with_itself(tiny_dataset: Dataset) -> None:
    here = Planner.for_dataset(tiny_dataset, budget_bytes=2 * GIB)
    there = pickle.loads(pickle.dumps(here))
    assert there.plan(WIDE) == here.plan(WIDE)
    assert len(pickle.dumps(here)) < 10_000


def test_a_budget_below_the_context_is_refused() -> None:
    with pytest.raises(BudgetError, match="context"):
        planner(100 * MIB)


def test_profile_survives_its_file_and_names_what_is_wrong(tmp_path: Path) -> None:
    profile = DeviceProfile(name="a card", context_bytes=123, margin_share=0.5)
    profile.save(tmp_path / "profile.json")
    assert DeviceProfile.load(tmp_path / "profile.json") == profile
    (tmp_path / "bad.json").write_text('{"context_bytes": "many"}')
    with pytest.raises(ConfigError, match="context_bytes"):
        DeviceProfile.load(tmp_path / "bad.json")
    (tmp_path / "odd.json").write_text('{"contexts": 1}')
    with pytest.raises(ConfigError, match="contexts"):
        DeviceProfile.load(tmp_path / "odd.json")


def test_recalibration_covers_the_largest_under_prediction() -> None:
    peaks = [MeasuredPeak(predicted_bytes=100, measured_bytes=size) for size in (90, 104, 99)]
    assert DeviceProfile().recalibrated(peaks).margin_share == pytest.approx(0.05)
    assert DeviceProfile().recalibrated([]) == DeviceProfile()


def test_cap_leaves_context_and_libraries_outside() -> None:
    profile = DeviceProfile(context_bytes=3 * MIB, library_bytes=MIB)
    assert allocator_cap_bytes(10 * MIB, profile.outside_bytes) == 6 * MIB
    with pytest.raises(BudgetError):
        allocator_cap_bytes(4 * MIB, profile.outside_bytes)
    cap_process_memory(1, "cpu", 0)  # nothing to cap


def test_settings_join_those_of_the_user() -> None:
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,expandable_segments:False"}
    pin_settings(environment)
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64,expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF" not in environment, "torch reads the old name where both are set"
    fresh: dict[str, str] = {}
    pin_settings(fresh)
    assert fresh["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert fresh["CUBLAS_WORKSPACE_CONFIG"] == ":4096:2:16:8"


def test_where_one_trace_does_not_hold_it_is_traced_at_real_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrialConfig.from_flat({"width": 0.5, "n_patches": 4})
    plans = [ExecutionPlan(micro_batch_clips=16), ExecutionPlan(micro_batch_clips=4, quantizer_chunk_rows=1_024)]
    usual = [planner().predict(config, plan) for plan in plans]

    def refuse(*_: object, **__: object) -> None:
        raise NotProportionalError("not proportional (injected)")

    monkeypatch.setattr(predict, "trace", refuse)
    monkeypatch.setattr(predict, "_PROGRAMS", predict.Remembered(8))
    asked = planner()
    for plan, expected in zip(plans, usual, strict=True):
        assert asked.predict(config, plan).allocated_bytes == expected.allocated_bytes


def test_a_budget_that_is_met_exactly_fits_and_one_byte_less_does_not() -> None:
    asked = planner()
    sizes = {plan: asked.predict(WIDE, plan).predicted_bytes for plan in asked.candidates(WIDE)}
    fastest = min(sizes, key=lambda plan: asked.relative_time(WIDE, plan))
    between = planner((min(sizes.values()) + sizes[fastest]) // 2).plan(WIDE)
    assert between.fits
    assert min(sizes.values()) < between.predicted_bytes < sizes[fastest]
    for plan in (fastest, between.plan):
        exact, less = planner(sizes[plan]).plan(WIDE), planner(sizes[plan] - 1).plan(WIDE)
        assert exact.fits
        assert exact.plan == plan
        assert less.fits
        assert less.predicted_bytes < sizes[plan]
    smallest = planner(min(sizes.values())).plan(WIDE)
    assert smallest.fits
    assert smallest.predicted_bytes == min(sizes.values())
    assert not planner(min(sizes.values()) - 1).plan(WIDE).fits


def test_a_budget_must_leave_a_byte_beside_the_context() -> None:
    outside = DeviceProfile().outside_bytes
    assert planner(outside + 1).budget_bytes == outside + 1
    assert allocator_cap_bytes(outside + 1, outside) == 1
    with pytest.raises(BudgetError):
        planner(outside)
    with pytest.raises(BudgetError):
        allocator_cap_bytes(outside, outside)


def test_every_part_of_a_plan_costs_the_time_that_the_profile_says() -> None:
    """16 clips of 16 patches: 256 patches and 16,384 rows, one chunk at most."""
    profile = DeviceProfile(
        recompute_encoder_share=0.25,
        recompute_decoder_share=0.5,
        host_share=0.125,
        amp_time_share=0.75,
        micro_batch_patches=10.0,
        chunk_patches=1.0,
    )
    asked = Planner(DATA, budget_bytes=None, profile=profile)

    def patches(**parts: object) -> float:
        return asked.relative_time(WIDE, ExecutionPlan(**({"micro_batch_clips": 16} | parts)))  # type: ignore[arg-type]

    assert patches() == 256 + 10 + 1
    assert patches(recompute_encoder=True) == 256 * 1.25 + 11
    assert patches(recompute_decoder=True) == 256 * 1.5 + 11
    assert patches(recompute_encoder=True, recompute_decoder=True) == 256 * 1.75 + 11
    assert patches(data_placement="host") == 256 * 1.125 + 11
    assert patches(precision="amp_bfloat16") == 256 * 0.75 + 11
    assert patches(micro_batch_clips=4) == 256 + 4 * 11
    assert patches(quantizer_chunk_rows=4_096) == 256 + 10 + 4 + 1e-3


def test_the_decoder_is_not_recomputed_where_a_split_batch_is_faster() -> None:
    """Splitting costs 10 patches and 1 for a chunk, recomputing the decoder half of 256: both would fit."""
    profile = DeviceProfile(recompute_decoder_share=0.5, recompute_encoder_share=0.5, micro_batch_patches=10.0)
    asked = Planner(DATA, budget_bytes=None, profile=profile)
    split, recomputing = ExecutionPlan(micro_batch_clips=8), ExecutionPlan(micro_batch_clips=16, recompute_decoder=True)
    budget = max(asked.predict(WIDE, plan).predicted_bytes for plan in (split, recomputing))
    choice = Planner(DATA, budget_bytes=budget, profile=profile).plan(WIDE)
    assert choice.fits
    assert choice.plan == split


def test_the_candidates_are_every_combination_once() -> None:
    """Micro-batches by halves down to one clip, both recomputations, each chunk, both places, both precisions."""
    config = WIDE.replace(batch_size=5, allow_amp=True)
    candidates = list(planner().candidates(config))
    assert len(candidates) == len(set(candidates)) == 4 * 4 * 4 * 2 * 2
    assert {plan.micro_batch_clips for plan in candidates} == {5, 3, 2, 1}
    assert {(plan.recompute_encoder, plan.recompute_decoder) for plan in candidates} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }
    assert {plan.quantizer_chunk_rows for plan in candidates} == {16_384, 4_096, 1_024, 256}
    assert {plan.data_placement for plan in candidates} == {"device", "host"}
    assert {plan.precision for plan in candidates} == {"float32", "amp_bfloat16"}


def test_a_micro_batch_asked_for_is_at_most_the_batch() -> None:
    assert {plan.micro_batch_clips for plan in planner(micro_batch_clips=99).candidates(WIDE)} == {16}


def test_an_uneven_rest_counts_as_a_micro_batch_and_as_a_chunk() -> None:
    """16 clips of 16 patches of 64 rows; 3 clips at once are 3,072 rows."""
    counts = planner().counts(WIDE, ExecutionPlan(micro_batch_clips=3, quantizer_chunk_rows=1_000))
    assert counts == (6, 6 * 4)


def test_the_profile_counts_and_travels_with_the_planner(tiny_dataset: Dataset) -> None:
    usual, more = DeviceProfile(), DeviceProfile(context_bytes=3 * GIB, amp_precision="amp_float16")
    plan = ExecutionPlan(micro_batch_clips=1)
    request = PlanRequest(amp=True, micro_batch_clips=2)
    made = Planner.for_dataset(tiny_dataset, budget_bytes=5 * GIB, request=request, profile=more)
    assert made.data == DataSizes.of(tiny_dataset)
    plain = Planner.for_dataset(tiny_dataset, budget_bytes=5 * GIB)
    for asked in (made, pickle.loads(pickle.dumps(made))):
        assert (asked.budget_bytes, asked.profile, asked.request) == (5 * GIB, more, request)
        apart = asked.predict(WIDE, plan).predicted_bytes - plain.predict(WIDE, plan).predicted_bytes
        assert apart == more.context_bytes - usual.context_bytes
        assert {(each.precision, each.micro_batch_clips) for each in asked.candidates(WIDE)} == {("amp_float16", 2)}


def test_a_planner_that_has_predicted_travels_as_light_as_a_new_one() -> None:
    asked = planner(8 * GIB)
    new = len(pickle.dumps(asked))
    asked.plan(WIDE)
    assert len(pickle.dumps(asked)) == new


@pytest.mark.parametrize("budget_bytes", [None, 8 * GIB, 560 * MIB])
def test_the_answer_holds_the_whole_prediction_of_its_plan(budget_bytes: int | None) -> None:
    asked = planner(budget_bytes)
    choice = asked.plan(WIDE)
    expected = asked.predict(WIDE, choice.plan)
    assert choice.fits is (budget_bytes != 560 * MIB)
    assert (choice.reason == "") is choice.fits
    assert choice.predicted_bytes == expected.predicted_bytes
    assert choice.allocated_bytes == expected.allocated_bytes
    assert choice.breakdown == expected.breakdown
    assert choice.peak_pass == expected.peak_pass


def test_next_smaller_is_the_fastest_of_those_that_need_a_tenth_less() -> None:
    """What the process takes beside the allocator no plan can save, so it does not count."""
    asked = planner()
    outside = asked.profile.outside_bytes
    needs = {plan: asked.predict(WIDE, plan).predicted_bytes - outside for plan in asked.candidates(WIDE)}
    whole = ExecutionPlan(micro_batch_clips=16)
    clearly = [plan for plan, size in needs.items() if size <= 0.9 * needs[whole]]
    fastest = min(clearly, key=lambda plan: asked.relative_time(WIDE, plan))
    assert asked.next_smaller(WIDE, whole) == fastest
    assert needs[fastest] > min(needs.values()), "the smallest is slower, and a later step"


def test_a_refusal_says_how_much_is_missing_and_what_takes_most() -> None:
    choice = planner(560 * MIB).plan(WIDE)
    largest = sorted(choice.breakdown, key=lambda part: choice.breakdown[part])[-3:]
    assert f"{format_bytes(choice.predicted_bytes - 560 * MIB)} more than" in choice.reason
    named = choice.reason.rpartition("largest parts: ")[2]
    assert named == ", ".join(f"{part} {format_bytes(choice.breakdown[part])}" for part in reversed(largest))


def test_exactly_what_a_plan_needs_is_enough_for_it_wherever_all_faster_ones_need_more() -> None:
    asked = planner()
    by_time = sorted(asked.candidates(WIDE), key=lambda plan: asked.relative_time(WIDE, plan))
    sizes = [asked.predict(WIDE, plan).predicted_bytes for plan in by_time]
    chosen = [index for index in range(len(sizes)) if sizes[index] < min(sizes[:index], default=2**62)]
    assert len(chosen) > 5
    for index in chosen:
        assert planner(sizes[index]).plan(WIDE).plan == by_time[index]
    second = sorted(chosen)[1]
    few = Planner(DATA, budget_bytes=sizes[second])
    few.candidates = lambda config: iter([by_time[second], by_time[0]])  # type: ignore[method-assign]
    assert few.plan(WIDE).plan == by_time[second], "also where it is the only other one"


def test_the_smallest_plan_is_the_answer_where_no_other_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan taken for no smaller than one that is too large is skipped; were all, the smallest would still do."""
    monkeypatch.setattr("trainable.memory.planner._no_smaller", lambda plan, other: True)
    asked = planner()
    sizes = [asked.predict(WIDE, plan).predicted_bytes for plan in asked.candidates(WIDE)]
    choice = planner(min(sizes)).plan(WIDE)
    assert choice.fits
    assert choice.predicted_bytes == asked.predict(WIDE, choice.plan).predicted_bytes == min(sizes)
