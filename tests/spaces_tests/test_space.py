"""What a space means: conditions, coupling, its digest."""

import pytest

from spaces.loader import space_from_text
from spaces.space import Choices, Condition, Parameter, Range, Space
from trainable.config import TrialConfig

TEXT = """
# A comment.
parameters:
  latent_dim: {low: 8, high: 64, log: true}
  stride: {choices: [4, 16, 32]}
  n_patches: {low: 2, high: 8}
  commitment_warmup_epochs: {low: 0, high: 4}
  commitment_warmup_start: {low: 0.0, high: 0.8, when: {commitment_warmup_epochs: {above: 0}}}
fixed:
  width: 0.5
  density: counts
"""
SHUFFLED = """
fixed: {density: counts, width: 0.5}
parameters:
  commitment_warmup_start:   # needs a warm-up
    when: {commitment_warmup_epochs: {above: 0}}
    high: 0.8
    low: 0
  commitment_warmup_epochs: {high: 4, low: 0}
  n_patches: {high: 8, low: 2}
  stride: {choices: [4, 16, 32]}
  latent_dim: {log: true, low: 8, high: 64}
search: {num_samples: 7}
description: The same space in other words.
"""


def test_digest_depends_on_meaning_alone() -> None:
    space = space_from_text(TEXT)
    assert space.digest == space_from_text(SHUFFLED).digest
    others = [
        TEXT.replace("high: 64", "high: 65"),
        TEXT.replace(", log: true", ""),
        TEXT.replace("[4, 16, 32]", "[4, 16]"),
        TEXT.replace("above: 0", "above: 1"),
        TEXT.replace("width: 0.5", "width: 0.25"),
        TEXT + "data: {n_fft: 512, hop_length: 256}\n",
    ]
    digests = {space_from_text(other).digest for other in others}
    assert len(digests | {space.digest}) == len(others) + 1


def test_what_a_condition_names_comes_first_whatever_the_order() -> None:
    for text in (TEXT, SHUFFLED):
        names = space_from_text(text).names
        assert names.index("commitment_warmup_epochs") < names.index("commitment_warmup_start")


def parameter(space: Space, name: str) -> Parameter:
    return next(each for each in space.parameters if each.name == name)


def test_a_conditional_parameter_is_active_only_where_its_condition_holds() -> None:
    space = space_from_text(TEXT)
    start = parameter(space, "commitment_warmup_start")
    assert space.is_active(start, {"commitment_warmup_epochs": 1})
    assert not space.is_active(start, {"commitment_warmup_epochs": 0})
    assert not space.is_active(start, {})
    assert space.is_active(parameter(space, "stride"), {})


def test_a_condition_may_name_a_fixed_value_and_a_list_of_values() -> None:
    text = TEXT + "  aggregation: top_k\n"
    space = space_from_text(
        text.replace("  stride:", "  top_k_share: {low: 0.1, high: 0.5, when: {aggregation: top_k}}\n  stride:")
    )
    assert space.is_active(parameter(space, "top_k_share"), {})
    condition = Condition("density", ("counts", "bigram"))
    assert condition.holds({"density": "bigram"})
    assert not condition.holds({"density": "combined"})


@pytest.mark.parametrize(
    ("condition", "distribution", "expected"),
    [
        (Condition("x", above=3.0), Range(0, 3), False),
        (Condition("x", above=3.0), Range(0, 4), True),
        (Condition("x", above=3.0), Choices((1, 3)), False),
        (Condition("x", above=3.0), Choices((5, 3)), True),
        (Condition("x", ("a",)), Choices(("b", "a")), True),
        (Condition("x", ("a",)), Choices(("b",)), False),
        (Condition("x", (2, 9)), Range(3, 9), True),
        (Condition("x", (True,)), Choices((False,)), False),
    ],
)
def test_whether_a_condition_can_hold(condition: Condition, distribution: Range | Choices, expected: bool) -> None:
    assert condition.can_hold(distribution) is expected


def test_a_proposal_becomes_a_configuration_over_the_fixed_values() -> None:
    space = space_from_text(TEXT)
    config = space.config({"latent_dim": 9, "stride": 4}, epochs=7, seed=3)
    assert config == TrialConfig.from_flat(
        {"latent_dim": 9, "stride": 4, "width": 0.5, "density": "counts", "epochs": 7, "seed": 3}
    )
    assert space.default_config(epochs=7) == TrialConfig.from_flat({"width": 0.5, "density": "counts", "epochs": 7})


@pytest.mark.parametrize(
    ("frames", "stride", "asked", "kept"),
    [
        (141, 16, 8, 5),
        (141, 16, 4, 4),
        (141, 32, 8, 3),
        (141, 4, 8, 8),
        (64, 4, 8, 1),
        (30, 4, 8, 1),
        (313, 16, 16, 16),
    ],
)
def test_patches_are_at_most_the_windows_that_stride_yields(frames: int, stride: int, asked: int, kept: int) -> None:
    """(141 − 64) // 16 + 1 = 5 windows, by hand; a 313-frame clip has DCASE's 16."""
    space = space_from_text(TEXT).for_clips(frames)
    assert space.config({"stride": stride, "n_patches": asked}, epochs=3).patch.n_patches == kept
    assert space_from_text(TEXT).config({"stride": stride, "n_patches": asked}, epochs=3).patch.n_patches == asked
    scored = space.config({"stride": stride, "n_patches": 1, "score_patches": asked}, epochs=3)
    assert scored.score.score_patches == kept
    covering = {"stride": stride, "n_patches": 1, "score_patches": asked, "score_windows": "cover"}
    assert space.config(covering, epochs=3).score.score_patches == asked, "they begin wherever the clip is covered"
    assert space.config({"stride": stride}, epochs=3).score.score_patches == 0, "as many as are trained on"


@pytest.mark.parametrize(
    ("distribution", "canonical"),
    [
        ("{choices: [2, 8, 4, 6]}", {2: 2, 4: 4, 6: 4, 8: 4}),
        ("{choices: [1, 2]}", {1: 1, 2: 2}),
        ("{choices: [6, 8]}", {6: 6, 8: 6}),
        ("{low: 1, high: 8}", {1: 1, 2: 2, 3: 3, 4: 3, 8: 3}),
        ("{low: 2, high: 8, step: 2}", {2: 2, 4: 4, 6: 4, 8: 4}),
        ("{low: 5, high: 8}", {5: 5, 6: 5, 8: 5}),
        ("{low: 2, high: 64, log: true}", {2: 2, 3: 3, 40: 3}),
    ],
)
def test_a_configuration_has_one_name(distribution: str, canonical: dict[int, int]) -> None:
    """141 frames have (141 − 64) // 32 + 1 = 3 windows at stride 32: from 3 up all mean 3."""
    text = f"parameters: {{n_patches: {distribution}, stride: {{choices: [4, 32]}}}}"
    space = space_from_text(text).for_clips(141)
    for drawn, name in canonical.items():
        proposal = {"n_patches": drawn, "stride": 32}
        assert space.canonical(proposal) == {"n_patches": name, "stride": 32}
        assert space.config(space.canonical(proposal), epochs=3) == space.config(proposal, epochs=3)
        assert space.holds(space.canonical(proposal))
        assert space_from_text(text).canonical(proposal) == proposal, "without clips nothing is known of windows"
        if drawn <= 20:  # (141 − 64) // 4 + 1
            assert space.canonical({"n_patches": drawn, "stride": 4})["n_patches"] == drawn


def test_a_name_stays_as_it_was_drawn_where_a_condition_asks_for_it() -> None:
    text = "parameters: {n_patches: {choices: [2, 8]}, top_k_share: {low: 0.1, high: 0.5, when: {n_patches: 8}}}\n"
    space = space_from_text(text + "fixed: {stride: 32}").for_clips(141)
    assert space.canonical({"n_patches": 8, "top_k_share": 0.2}) == {"n_patches": 8, "top_k_share": 0.2}
    fixed = space_from_text("parameters: {n_patches: {choices: [2, 8, 16]}}\nfixed: {stride: 32}").for_clips(141)
    assert fixed.canonical({"n_patches": 16}) == {"n_patches": 8}
    assert fixed.canonical({}) == {}


@pytest.mark.parametrize(("distribution", "longest"), [("{low: 0, high: 4}", 4), ("{choices: [0, 6, 2]}", 6), ("3", 3)])
def test_the_longest_warmup_is_known(distribution: str, longest: int) -> None:
    text = TEXT.replace("commitment_warmup_epochs: {low: 0, high: 4}", f"commitment_warmup_epochs: {distribution}")
    assert space_from_text(text).longest_warmup == longest
    assert space_from_text("parameters: {stride: {low: 4, high: 8}}").longest_warmup == 0


def test_a_range_contains_its_bounds_and_no_booleans() -> None:
    assert Range(1, 3).contains(1)
    assert Range(1, 3).contains(3)
    assert not Range(1, 3).contains(3.1)
    assert not Range(0, 1).contains(True)


def test_a_space_knows_which_parameters_it_could_have_proposed() -> None:
    space = space_from_text(TEXT)
    whole = {"latent_dim": 8, "stride": 16, "n_patches": 2, "commitment_warmup_epochs": 0}
    assert space.holds(whole)
    assert space.holds({**whole, "commitment_warmup_epochs": 2, "commitment_warmup_start": 0.5})
    assert not space.holds({**whole, "commitment_warmup_start": 0.5}), "not searched without a warm-up"
    assert not space.holds({name: whole[name] for name in ("latent_dim", "stride")})
    assert space.covers({name: whole[name] for name in ("latent_dim", "stride")})
    for wrong in ({"stride": 8}, {"latent_dim": 65}, {"latent_dim": "8"}, {"width": 0.5}, {"n_patches": None}):
        assert not space.covers({**whole, **wrong})
