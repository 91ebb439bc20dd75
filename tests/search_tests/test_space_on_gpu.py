"""A space that names another for GPUs: which is searched, with which of its suggestions, and what a resume keeps."""

from dataclasses import replace
from pathlib import Path

import pytest

import search.session
from search.flags import build_parser
from search.request import Request, read_request
from search.store.manifest import new_manifest
from spaces.loader import load_space
from trainable.record import RunFolder


def request_of(words: str) -> Request:
    return read_request(build_parser().parse_args(words.split()), tuple(words.split()))


def test_a_gpu_gets_the_larger_space_and_what_it_suggests_where_no_flag_does() -> None:
    request = request_of("--space ad_tuning --max-epochs 5 --reduction-factor 4")
    assert request.on("cpu") == request
    chosen = request.on("cuda:1")
    assert chosen.space == load_space("ad_gpu")
    assert (chosen.options.max_epochs, chosen.options.reduction_factor) == (5, 4)
    assert chosen.options.num_samples == load_space("ad_gpu").search.num_samples != request.options.num_samples
    assert chosen.options.grace_period == load_space("ad_gpu").search.grace_period
    assert chosen.options.space == "ad_tuning", "as it was given"


def test_a_file_and_a_space_without_another_are_the_same_on_every_device(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(load_space("ad_tuning").text)
    for named in (str(tmp_path / "mine.yaml"), "ad_gpu", "ad_smoke"):
        request = request_of(f"--space {named}")
        assert request.on("cuda") == request
        assert search.session._for_device(request, "cuda", lambda _: pytest.fail("there is nothing to say")) == request


def test_the_choice_is_one_line_and_the_folder_holds_what_is_searched(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    request = replace(request_of("--space ad_tuning"), folder=folder)
    folder.write_text(folder.space_path, request.space.text)
    said: list[str] = []
    for device, dry_run in (("cpu", False), ("cuda", True)):
        search.session._for_device(replace(request, dry_run=dry_run), device, said.append)
        assert folder.space_path.read_text() == request.space.text
    search.session._for_device(request, "cuda", said.append)
    assert folder.space_path.read_text() == load_space("ad_gpu").text
    assert len(said) == 3
    assert "on the CPU" in said[0]
    assert "ad_gpu is searched (--device cpu keeps" in said[1]
    assert said[1] == said[2]


def test_a_resume_keeps_the_space_of_its_folder_on_any_device(tmp_path: Path) -> None:
    for device in ("cuda", "cpu"):
        folder = RunFolder(tmp_path / device)
        request = replace(request_of("--space ad_tuning"), folder=folder).on(device)
        folder.path.mkdir()
        folder.write_text(folder.space_path, request.space.text)
        folder.write_manifest(
            new_manifest(device, request.space, request.options, argv=(), data_digest="x", device=device)
        )
        for words in ("", " --space ad_tuning"):
            resumed = request_of(f"--resume {folder.path}{words}")
            assert resumed.space.digest == request.space.digest
            assert resumed.options.max_epochs == request.options.max_epochs
            assert resumed.on("cuda") == resumed.on("cpu") == resumed
