"""Where checkpoints lie: folders, and an S3-compatible server on this machine; a whole search that resumes from it."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.options import SearchOptions
from search.run import main
from search.store.checkpoints import prepare_storage
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.test_run import SPACE
from trainable.checkpoint_place import CheckpointPlace, begin_or_resume, check_address, place_under
from trainable.commandline import run
from trainable.detection.ranking import competing
from trainable.errors import CheckpointError, ConfigError, OtherConfigError
from trainable.printable import printable
from trainable.record import RunFolder

BUCKET = "checkpoints"


@pytest.fixture(autouse=True)
def local_copies_end_with_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address (host:port) of an S3-compatible server with one bucket; the environment holds its credentials."""
    import boto3
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield f"{host}:{port}"
        running.stop()


@pytest.fixture
def root(server: str, request: pytest.FixtureRequest) -> str:
    """A prefix of its own for each test."""
    return f"s3://{BUCKET}/{request.node.name.partition('[')[0]}?endpoint_override={server}&scheme=http"


@pytest.fixture(params=["folder", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store/00001")
    return place_under(request.getfixturevalue("root"), "00001")


def put(place: CheckpointPlace, **files: str) -> None:
    place.folder.mkdir(parents=True, exist_ok=True)
    for path in place.folder.iterdir():
        if path.stem not in files:
            path.unlink()
    for name, text in files.items():
        (place.folder / f"{name}.ckpt").write_text(text)
    place.push()


def held(address: str) -> dict[str, str]:
    place = CheckpointPlace(address)
    found = {path.stem: path.read_text() for path in place.folder.iterdir()} if place.fetch() else {}
    place.forget_copy()
    return found


def test_what_was_pushed_is_fetched_by_another_process(address):
    assert held(address) == {}
    place = CheckpointPlace(address)
    put(place, one="1", two="22")
    assert held(address) == {"one": "1", "two": "22"}
    put(place, two="22", three="333")
    put(place, two="new", three="333")
    assert held(address) == {"two": "new", "three": "333"}
    assert CheckpointPlace(address).size_bytes() == len("new") + len("333")
    place.remove()
    assert held(address) == {}
    assert CheckpointPlace(address).size_bytes() == 0
    CheckpointPlace(address).remove()  # nothing there: nothing to do


def test_neighbours_are_left_alone(address):
    other = address.replace("00001", "00002")
    put(CheckpointPlace(address), one="1")
    put(CheckpointPlace(other), two="2")
    CheckpointPlace(address).remove()
    assert held(other) == {"two": "2"}


def test_old_checkpoints_go_only_after_the_new_ones_are_there(root, monkeypatch):
    from pyarrow import fs

    place = CheckpointPlace(place_under(root, "00001"))
    put(place, one="1")
    copy = fs.copy_files

    def refuse(*arguments, **options):
        raise OSError("no room")

    monkeypatch.setattr(fs, "copy_files", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be written: no room"):
        put(place, two="2")
    monkeypatch.setattr(fs, "copy_files", copy)
    assert held(place.address) == {"one": "1"}
    place.push()
    assert held(place.address) == {"two": "2"}


def test_only_new_files_travel(root, monkeypatch):
    from pyarrow import fs

    address = place_under(root, "00001")
    put(CheckpointPlace(address), one="1", two="2")
    place = CheckpointPlace(address)
    assert place.fetch()
    sent = []
    copy = fs.copy_files
    monkeypatch.setattr(
        fs, "copy_files", lambda source, *rest, **options: sent.append(source) or copy(source, *rest, **options)
    )
    (place.folder / "three.ckpt").write_text("3")
    place.push()
    assert [Path(path).name for path in sent] == ["three.ckpt"]
    monkeypatch.undo()
    assert held(address) == {"one": "1", "two": "2", "three": "3"}
    place.forget_copy()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("action", ["fetch", "push", "size_bytes", "remove"])
def test_an_unreachable_store_is_one_line(server, action):
    place = CheckpointPlace(f"s3://{BUCKET}/x?endpoint_override=127.0.0.1:{closed_port()}&scheme=http")
    with pytest.raises(CheckpointError, match=f"s3://{BUCKET}/x") as caught:
        getattr(place, action)()
    assert "\n" not in str(caught.value)
    place.forget_copy()


def test_a_bucket_that_is_missing_or_a_scheme_that_nobody_knows_is_one_line(server):
    for address in (f"s3://nowhere/x?endpoint_override={server}&scheme=http", "carrier-pigeon://roof/1"):
        place = CheckpointPlace(address)
        place.folder.joinpath("one.ckpt").write_text("1")
        with pytest.raises(CheckpointError) as caught:
            place.push()
        assert "\n" not in str(caught.value)
        place.forget_copy()


class Counted:
    """A trial that only says what it loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def load(self, folder: Path, at_most: int | None = None) -> int:
        self.loaded = sorted(path.read_text() for path in folder.iterdir())
        if "damaged" in self.loaded:
            raise CheckpointError("damaged")
        if "too large" in self.loaded:
            raise MemoryError
        return 1

    def release(self) -> None:
        self.loaded = ["released"]


def test_a_trial_begins_again_if_its_checkpoints_are_damaged_but_not_if_the_store_is_away(address, server, caplog):
    assert begin_or_resume(Counted, CheckpointPlace(address)).loaded == []
    place = CheckpointPlace(address)
    put(place, one="fine")
    assert begin_or_resume(Counted, CheckpointPlace(address)).loaded == ["fine"]
    put(place, one="damaged")
    assert begin_or_resume(Counted, CheckpointPlace(address)).loaded == []
    assert "starts again from its first epoch" in caplog.text
    away = CheckpointPlace(f"s3://{BUCKET}/x?endpoint_override=127.0.0.1:{closed_port()}&scheme=http")
    with pytest.raises(CheckpointError, match="cannot be read"):
        begin_or_resume(Counted, away)


def test_a_trial_whose_checkpoints_are_gone_says_how_much_it_trains_again(address, caplog):
    for reported in (None, 0, 1):
        begin_or_resume(Counted, CheckpointPlace(address), reported)
    assert "starts again" not in caplog.text, "the first epoch is reported before it is saved"
    begin_or_resume(Counted, CheckpointPlace(address), 20)
    assert "a trial of 20 reported epochs starts again from its first" in caplog.text


def test_another_trials_checkpoint_is_not_taken_for_a_damaged_one(address):
    class Other(Counted):
        def load(self, folder: Path, at_most: int | None = None) -> int:
            raise OtherConfigError("the checkpoint is of another configuration")

    put(place := CheckpointPlace(address), one="fine")
    with pytest.raises(OtherConfigError):
        begin_or_resume(Other, place, 3)


def test_a_trial_that_cannot_begin_leaves_no_memory_and_no_files_behind(address: str, tmp_path: Path) -> None:
    put(place := CheckpointPlace(address), one="too large")
    place.push()
    place.forget_copy()
    trial = Counted()
    with pytest.raises(MemoryError):
        begin_or_resume(lambda: trial, place)
    assert trial.loaded == ["released"]
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/store", "/store/run/1"),
        ("/store/", "/store/run/1"),
        ("/", "/run/1"),
        ("s3://bucket", "s3://bucket/run/1"),
        ("s3://bucket/a/", "s3://bucket/a/run/1"),
        ("s3://bucket/a?region=eu&scheme=http", "s3://bucket/a/run/1?region=eu&scheme=http"),
    ],
)
def test_a_place_below_another_keeps_the_query_at_the_end(address, expected):
    assert place_under(address, "run", "1") == expected


def test_passwords_in_addresses_are_refused_and_not_repeated():
    for address in ("s3://key:secret@bucket/x", "s3://key:se%2Fcret@bucket/x?region=eu"):
        with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY") as caught:
            check_address(address)
        assert "secret@" not in str(caught.value)
        assert "key" not in str(caught.value)
    check_address("gs://anonymous@bucket/x")
    check_address("/a/folder")


@pytest.mark.parametrize("kind", ["file in the way", "below a file", "missing bucket", "unknown scheme", "no name"])
def test_an_unusable_storage_path_is_named_before_anything_is_trained(kind, server, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    place = {
        "file in the way": str(tmp_path / "file"),
        "below a file": str(tmp_path / "file/below"),
        "missing bucket": f"s3://nowhere/x?endpoint_override={server}&scheme=http",
        "unknown scheme": "carrier-pigeon://roof/1",
        "no name": str(tmp_path / "a\0b"),
    }[kind]
    monkeypatch.setattr("search.session.load_dataset", lambda config: pytest.fail("data was read first"))
    output = tmp_path / "run"
    assert run(main, ["--space", "ad_smoke", "--local", "--storage-path", place, "--output", str(output)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --storage-path {printable(place)} cannot be used: ")
    assert "that you may write to" in line
    assert "probe" not in line
    assert not output.exists()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_usable_storage_path_is_made_and_left_empty(address):
    prepare_storage(SearchOptions(space="ad_smoke", storage_path=address))
    assert held(address) == {}
    prepare_storage(SearchOptions(space="ad_smoke"))  # none: nothing to do


def test_a_search_whose_storage_is_lost_goes_on_in_another_place(tmp_path, monkeypatch, capsys):
    from trainable.trial import Trial

    machine = write_recordings(tmp_path / "machines", machine_type="press", train=6, test=4)
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.replace("num_samples: 4", "num_samples: 1"))
    arguments = ["--space", str(space), "--data-root", str(machine), "--machine-type", "press", "--local", "--quiet"]
    lost, output, step = tmp_path / "lost", tmp_path / "run", Trial.step

    def interrupted(trial: Trial):
        if trial.epoch == 1:
            raise KeyboardInterrupt
        return step(trial)

    monkeypatch.setattr(Trial, "step", interrupted)
    assert run(main, [*arguments, "--storage-path", str(lost), "--output", str(output)]) == 130
    monkeypatch.setattr(Trial, "step", step)
    shutil.rmtree(lost)
    lost.write_text("in the way")
    assert run(main, ["--resume", str(output), "--quiet"]) == 2
    assert f"--storage-path {lost} cannot be used" in capsys.readouterr().err
    assert run(main, ["--resume", str(output), "--quiet", "--storage-path", str(tmp_path / "found")]) == 0
    (record,) = RunFolder(output).read_trials()
    assert [report.epoch for report in record.epochs] == [1, 2, 3]
    assert CheckpointPlace(str(tmp_path / "found" / RunFolder(output).read_manifest().identity)).folder.is_dir()


def test_a_whole_search_keeps_its_checkpoints_in_s3_and_resumes_from_there(root, tmp_path, monkeypatch, capsys):
    from trainable.trial import Trial

    machine = write_recordings(tmp_path / "machines", machine_type="press", train=6, test=4)
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.replace("width: 0.25", "width: 0.125"))
    arguments = ["--space", str(space), "--data-root", str(machine), "--machine-type", "press", "--local", "--quiet"]
    main([*arguments, "--output", str(tmp_path / "whole")])

    steps, step, loaded, load = [], Trial.step, [], Trial.load

    def interrupted(trial: Trial):
        steps.append(trial)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(trial)

    monkeypatch.setattr(Trial, "step", interrupted)
    assert run(main, [*arguments, "--storage-path", root, "--output", str(tmp_path / "cut")]) == 130
    monkeypatch.setattr(Trial, "step", step)
    monkeypatch.setattr(Trial, "load", lambda trial, *rest: loaded.append(load(trial, *rest)) or loaded[-1])
    assert main(["--resume", str(tmp_path / "cut"), "--quiet"]) == 0
    assert loaded[0] == 2  # the interrupted trial went on after its second epoch; later ones are the winner's

    def table(name: str):
        records = RunFolder(tmp_path / name).read_trials()
        return [(each.start.params, each.outcome, [epoch.validation_auc for epoch in each.epochs]) for each in records]

    assert table("cut") == table("whole")
    assert not list((tmp_path / "cut").glob("trials/*/checkpoints"))
    leading = {each.number for each in competing(RunFolder(tmp_path / "cut").read_trials())}
    identity = RunFolder(tmp_path / "cut").read_manifest().identity
    stored = {
        number for number in range(4) if CheckpointPlace(place_under(root, identity, f"{number:05d}")).size_bytes()
    }
    assert stored == leading
    assert "held-out AUC" in capsys.readouterr().out
