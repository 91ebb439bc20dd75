"""Every mistake in a space file: which file, line and key, what was found, what is allowed, what may be meant."""

from pathlib import Path

import pytest

from spaces.loader import builtin_spaces, load_space, space_from_text
from spaces.space import Choices, Range
from trainable.config import knobs
from trainable.errors import SpaceError

HEAD = "parameters:\n  latent_dim: {low: 8, high: 64, log: true}\n"


def refusal(text: str) -> str:
    with pytest.raises(SpaceError) as caught:
        space_from_text(text, "mine.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


MISTAKES = [
    (
        HEAD + "fixd:\n  width: 1.0\n",
        4,
        "unknown section 'fixd'; did you mean 'fixed'?; known: description, parameters",
    ),
    ("description: x\n", 1, "the section 'parameters' is missing"),
    ("parameters: 3\n", 1, "'parameters' must be a mapping of names to values, found 3"),
    ("parameters: {}\n", 1, "nothing to search"),
    ("parameters:\n  latent_dim: 8\n", 2, "no parameter has a range or choices"),
    ("parameters:\n  latnt_dim: {low: 8, high: 64}\n", 2, "unknown parameter 'latnt_dim'; did you mean 'latent_dim'?"),
    ("parameters:\n  epochs: {low: 8, high: 64}\n", 2, "epochs belongs to the search (--max-epochs, --seed)"),
    (
        "parameters:\n  latent_dim: {lo: 8, high: 64}\n",
        2,
        "latent_dim: unknown key 'lo'; did you mean 'low'?; known: low, high",
    ),
    ("parameters:\n  latent_dim: {low: 8}\n", 2, "latent_dim: 'high' is missing; give 'low' and 'high', or 'choices'"),
    ("parameters:\n  latent_dim: {low: 64, high: 8}\n", 2, "latent_dim: low 64 is not below high 8"),
    ("parameters:\n  latent_dim: {low: 1, high: 8}\n", 2, "latent_dim is 1; it must be in 2 … 1024"),
    ("parameters:\n  latent_dim: {low: 8.0, high: 64}\n", 2, "latent_dim is 8.0; it must be of type int"),
    ("parameters:\n  latent_dim: {low: eight, high: 64}\n", 2, "latent_dim is 'eight'; it must be of type int"),
    ("parameters:\n  latent_dim: {low: [8], high: 64}\n", 2, "latent_dim: give one value here"),
    ("parameters:\n  latent_dim: {low: .nan, high: 64}\n", 2, "latent_dim is nan"),
    (
        "parameters:\n  learning_rate: {low: 1e-4, high: 1.0e-2}\n",
        2,
        "the text '1e-4'; YAML wants 1.0e-3 rather than 1e-3",
    ),
    ("parameters:\n  id_weight: {low: 0, high: 1, log: true}\n", 2, "a logarithmic range needs low above 0, found 0.0"),
    ("parameters:\n  latent_dim: {low: 8, high: 64, log: 1}\n", 2, "log is 1; it must be true or false"),
    ("parameters:\n  latent_dim: {low: 8, high: 64, step: 0}\n", 2, "step is 0; it must be in 0 … 56"),
    ("parameters:\n  latent_dim: {low: 8, high: 64, step: 3}\n", 2, "steps of 3 from 8 do not end at 64"),
    ("parameters:\n  latent_dim: {low: 8, high: 64, step: 3.5}\n", 2, "an integer needs an integer step"),
    ("parameters:\n  latent_dim: {low: 8, high: 64, step: 8, log: true}\n", 2, "a logarithmic range has no step"),
    ("parameters:\n  width: {low: 1, high: 2, step: .nan}\n", 2, "step is nan"),
    ("parameters:\n  revival: {low: 0, high: 1}\n", 2, "revival is bool; give 'choices'"),
    ("parameters:\n  density: {low: 0, high: 1}\n", 2, "density is str; give 'choices'"),
    ("parameters:\n  density: {choices: [count]}\n", 2, "density is 'count'; it must be one of counts"),
    ("parameters:\n  density:\n    choices:\n      - counts\n      - mahalanobs\n", 5, "did you mean 'mahalanobis'?"),
    ("parameters:\n  stride: {choices: []}\n", 2, "'choices' must be a list of at least one value"),
    ("parameters:\n  stride: {choices: 4}\n", 2, "'choices' must be a list"),
    ("parameters:\n  stride: {choices: [4, 8, 4]}\n", 2, "'choices' names a value twice"),
    ("parameters:\n  stride: {choices: [4], low: 3}\n", 2, "stride: has 'choices' and 'low'; give either"),
    (HEAD + "fixed:\n  latent_dim: 8\n", 2, "latent_dim is both fixed and searched"),
    (HEAD + "  width: 1.0\nfixed:\n  width: 2.0\n", 3, "width is given twice"),
    (HEAD + "fixed:\n  width: {low: 1, high: 2}\n", 4, "width is fixed; give one value, or move it to 'parameters'"),
    (HEAD + "fixed: {vq_only_share: 0.7, frozen_share: 0.7}\n", 1, "the fixed values contradict each other"),
    ("parameters:\n  vq_only_share: {low: 0.0, high: 0.9}\n", 2, "vq_only_share up to 0.9 and frozen_share up to 0.2"),
    (HEAD + "  vq_only_share: {choices: [0.2, 0.7]}\nfixed: {frozen_share: 0.4}\n", 3, "exceed 1 together"),
    (HEAD + "data: {machine: fan}\n", 3, "unknown data parameter 'machine'; did you mean 'machine_type'?"),
    (HEAD + "data: {data_root: /somewhere}\n", 3, "unknown data parameter 'data_root'"),
    (HEAD + "data: {machine_type: ../../etc}\n", 3, "it must be the plain name of a folder"),
    (HEAD + "data: {machine_type: 3}\n", 3, "it must be the plain name of a folder"),
    (HEAD + "data: {n_fft: 256, hop_length: 512}\n", 3, "hop_length 512 exceeds n_fft 256"),
    (HEAD + "data: {validation_share: 1.5}\n", 3, "validation_share is 1.5"),
    (HEAD + "data: {validation_share: half}\n", 3, "validation_share"),
    (HEAD + "search: {num_sample: 3}\n", 3, "unknown search setting 'num_sample'; did you mean 'num_samples'?"),
    (HEAD + "search: {num_samples: 0}\n", 3, "num_samples is 0; it must be an integer in 1 … 1000000"),
    (HEAD + "search: {reduction_factor: 1}\n", 3, "it must be an integer in 2 … 1000000"),
    (HEAD + "search: {num_samples: true}\n", 3, "num_samples is True"),
]


@pytest.mark.parametrize(("text", "line", "message"), MISTAKES, ids=[mistake[2][:40] for mistake in MISTAKES])
def test_a_mistake_is_told_with_file_line_and_what_is_allowed(text: str, line: int, message: str) -> None:
    told = refusal(text)
    assert told.startswith(f"mine.yaml, line {line}: "), told
    assert message in told


def test_an_unknown_parameter_is_answered_with_all_that_are_known() -> None:
    told = refusal("parameters:\n  latnt_dim: {low: 8, high: 64}\n")
    named = told.partition("; known: ")[2].split(", ")
    assert set(named) == {spec.name for spec in knobs()} - {"epochs", "seed"}
    assert "; known: num_embeddings" not in refusal(HEAD.replace("low", "lw")), "keys of a range are others"
    assert "stride" in refusal("parameters:\n  stride: {choices: [4], when: {strid: 4}}\n").partition("known: ")[2]


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ("latent_dim: [8, 16]", "latent_dim: a list of values is written {choices: [8, 16]}"),
        ("density: [counts, bigram]", "density: a list of values is written {choices: [counts, bigram]}"),
        ("revival: [true, false]", "revival: a list of values is written {choices: [true, false]}"),
        ("width:\n  - 0.5\n  - [null, {a: 1}]", "width: a list of values is written {choices: [0.5, [null, {…}]]}"),
    ],
)
def test_a_bare_list_is_answered_with_how_it_is_written(entry: str, advice: str) -> None:
    assert advice in refusal(f"parameters:\n  {entry.replace(chr(10), chr(10) + '  ')}\n")
    assert "move it to 'parameters' with 'choices'" in refusal(HEAD + "fixed: {width: [0.5, 1.0]}\n")


CONDITIONS = [
    ("{density: counts, stride: 4}", "'when' names exactly one parameter, found 2"),
    ("{aggregaton: top_k}", "unknown parameter 'aggregaton'; did you mean 'aggregation'?"),
    ("{top_k_share: 0.1}", "'when' names the parameter itself"),
    ("{stride: {below: 3}}", "takes a value, a list, or {above: number}"),
    ("{stride: {above: many}}", "takes a value, a list, or {above: number}"),
    ("{density: {above: 3}}", "density is str, and 'above' compares numbers"),
    ("{stride: 16}", "'when' names 'stride', which is neither searched nor fixed here"),
    ("{aggregation: topk}", "aggregation is 'topk'; it must be one of mean, max, top_k"),
    ("{aggregation: max}", "its 'when' never holds, since aggregation has none of those values"),
    ("{aggregation: []}", "never holds"),
    ("{latent_dim: {above: 64}}", "never holds"),
    ("{latent_dim: {above: .nan}}", "never holds"),
    ("{width: 2.0}", "its 'when' never holds, since width has none of those values"),
    ("top_k", "top_k_share: 'when' must be a mapping"),
]


@pytest.mark.parametrize(("when", "message"), CONDITIONS, ids=[condition[0] for condition in CONDITIONS])
def test_a_condition_that_cannot_be_meant_is_refused(when: str, message: str) -> None:
    text = (
        HEAD + "  aggregation: {choices: [mean, top_k]}\n" + f"  top_k_share: {{low: 0.1, high: 0.5, when: {when}}}\n"
    )
    told = refusal(text + "fixed: {width: 1.0}\n")
    assert told.startswith("mine.yaml, line 4: "), told
    assert message in told


def test_conditions_in_a_circle_are_refused() -> None:
    first, second = "stride: {low: 4, high: 8, when: {n_patches: 2}}", "n_patches: {low: 1, high: 3, when: {stride: 4}}"
    assert "form a circle" in refusal(f"parameters:\n  {first}\n  {second}\n")


def test_a_path_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("parameters:\n  strid: {low: 4, high: 8}\n")
    with pytest.raises(SpaceError, match=rf"^{path}, line 2: unknown parameter 'strid'"):
        load_space(str(path))


def test_a_file_becomes_a_space(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "  width: {low: 1, high: 2, step: 1}\n  stride: {choices: [4, 8]}\nfixed:\n  id_weight: 1\n")
    space = load_space(str(path))
    assert space.name == "mine"
    assert space.text == path.read_text()
    by_name = {parameter.name: parameter.distribution for parameter in space.parameters}
    assert by_name == {
        "latent_dim": Range(8, 64, log=True, integer=True),
        "width": Range(1.0, 2.0, step=1.0),
        "stride": Choices((4, 8)),
    }
    assert space.fixed == {"id_weight": 1.0}
    assert space.search.reduction_factor == 3


@pytest.mark.parametrize("name", ["ad_tuning", "ad_gpu", "ad_smoke", "ad_losses"])
def test_builtin_spaces_load_and_their_corners_are_configurations(name: str) -> None:
    assert name in builtin_spaces()
    space = load_space(name)
    assert space.search.grace_period <= space.search.max_epochs
    assert space.longest_warmup < space.search.max_epochs
    for pick in (min, max):
        corner = {}
        for parameter in space.parameters:
            values = parameter.distribution
            corner[parameter.name] = (
                pick(values.values) if isinstance(values, Choices) else pick(values.low, values.high)
            )
        config = space.config(corner, epochs=space.search.max_epochs).flat()
        assert {name: config[name] for name in corner} == corner
        assert {name: config[name] for name in space.fixed} == space.fixed
    assert space.default_config(epochs=4).phase.epochs == 4


def test_the_mission_names_every_parameter_it_tunes() -> None:
    named = {"num_embeddings", "latent_dim", "commitment_cost", "commitment_warmup_epochs", "commitment_warmup_start"}
    for space in ("ad_tuning", "ad_gpu"):
        assert named | {"n_patches", "stride", "learning_rate"} <= set(load_space(space).names)


def test_what_stands_for_a_space_on_a_gpu_reads_the_same_recordings_and_ends_the_chain() -> None:
    for space in map(load_space, builtin_spaces()):
        if space.on_gpu is not None:
            larger = load_space(space.on_gpu)
            assert larger.data == space.data, "recordings are read before the device is known"
            assert larger.on_gpu is None


def test_a_file_is_searched_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(load_space("ad_tuning").text)
    assert load_space("ad_tuning").on_gpu == "ad_gpu"
    assert load_space(str(path)).on_gpu is None
    path.write_text(f"{path.read_text().replace('on_gpu: ad_gpu', 'on_gpu: ad_gp')}")
    with pytest.raises(SpaceError, match=r"line 3: on_gpu is 'ad_gp'; .*did you mean 'ad_gpu'\?; known: ad_gpu, "):
        load_space(str(path))
