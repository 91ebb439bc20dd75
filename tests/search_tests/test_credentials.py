"""Credentials stay where they were given: no password of any letters reaches manifest, title, logs or messages."""

import base64
import dataclasses
import json
import logging
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analysis.report import main as report
from search.flags import build_parser
from search.listeners import mlflow, wandb
from search.options import SearchOptions
from search.run import main
from search.runners.ray_credentials import hidden_credentials
from search.store.manifest import command_line, new_manifest
from search.store.study import SearchStudy
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.synthetic import small_space
from tests.search_tests.test_checkpoint_place import BUCKET, server
from tests.search_tests.test_run import SPACE
from trainable.checkpoint_place import check_address, place_under
from trainable.errors import ConfigError, RunError
from trainable.record import RunFolder
from trainable.redaction import holds_credentials, redact, without_given_secrets, without_secrets

__all__ = ["server"]  # the S3-compatible one, a fixture
HEAD, TAIL = "S3cr3tHead", "S3cr3tTail"
"""Around every password, so that any piece of it is noticed."""
LETTERS = st.characters(codec="utf-8", exclude_categories=("Cs",))
PASSWORDS = st.text(st.one_of(st.sampled_from("@/?#:=&%[]+ \\'\"$"), LETTERS), max_size=20).map(
    lambda middle: f"{HEAD}{middle}{TAIL}"
)
USERS = st.sampled_from(["bob", "tuner", ""])
FORMS = st.sampled_from(
    [
        "postgresql://{user}:{password}@db.example:5432/ad",
        "postgresql+psycopg://{user}:{password}@db/ad?sslmode=require",
        "postgresql://db/ad?user={user}&password={password}",
        "postgresql://db/ad?password={password}&host=x@y",
        "mysql://{user}:{password}@/ad",
        "nobody-knows://{user}:{password}@db/ad",
        "s3://{user}:{password}@bucket/x",
        "s3://bucket/x?access_key={user}&secret_key={password}",
        "abfss://c@account/x?client_secret={password}",
        "https://{user}:{password}@mlflow.example/",
        "sqlite:///{password}@/nowhere/study.db?x={password}",
    ]
)
ADDRESSES = st.builds(lambda form, user, password: form.format(user=user, password=password), FORMS, USERS, PASSWORDS)
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def clean(text: str) -> bool:
    return HEAD not in text and TAIL not in text


@MANY
@given(ADDRESSES)
@example("postgresql+psycopg://tuner:S3cr3tHeadab/cd+ef=S3cr3tTail@db:5432/studies")
def test_no_password_is_shown_whatever_its_letters(address: str) -> None:
    assert clean(redact(address))
    assert holds_credentials(address)
    for words in (["--study-storage", address], [f"--study-storage={address}"], ["-x", f"--mlflow={address}", address]):
        assert clean(command_line(words))
        assert shlex.split(command_line(words))[:3] == ["python", "-m", "search.run"]


@MANY
@given(ADDRESSES)
def test_a_manifest_holds_none(address: str) -> None:
    options = SearchOptions(space="x", study_storage=address)
    words = ["--space", "x", "--study-storage", address]
    manifest = new_manifest("run", small_space(), options, argv=words, data_digest="", device="cpu")
    assert clean(json.dumps(dataclasses.asdict(manifest), ensure_ascii=False))


@MANY
@given(ADDRESSES)
def test_places_and_trackers_with_credentials_are_refused_without_repeating_them(address: str) -> None:
    for name in ("storage_path", "mlflow"):
        values: dict[str, Any] = {name: address}
        with pytest.raises(ConfigError) as caught:
            SearchOptions(space="x", **values)
        assert clean(str(caught.value))
        assert "\n" not in str(caught.value)


@MANY
@given(ADDRESSES, st.sampled_from(["--study-storag", "--nonsense", "--study-storage"]))
def test_a_mistyped_flag_is_not_answered_with_the_password(address: str, flag: str) -> None:
    for words in ([f"{flag}={address}"], [flag, address], [flag, address, "--num-samples", "many"]):
        try:
            build_parser().parse_args(["--space", "x", *words])
        except ConfigError as error:
            refused = clean(str(error))
            assert refused


@settings(MANY, max_examples=60)
@given(address=ADDRESSES.filter(lambda address: not address.startswith("sqlite")))
def test_a_storage_that_cannot_be_opened_says_nothing_of_it(address: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for scheme in ("postgresql", "postgresql+psycopg"):
        url = scheme + "://" + address.partition("://")[2].replace("db.example:5432", "127.0.0.1:1")
        with pytest.raises(RunError) as caught:
            SearchStudy(url.replace("@db/", "@127.0.0.1:1/").replace("//db/", "//127.0.0.1:1/"), "name", "run")
        assert clean(str(caught.value))
        assert "\n" not in str(caught.value)
    assert clean(caplog.text)


def test_what_stands_behind_an_unescaped_ampersand_is_part_of_a_credential() -> None:
    for tail in ("S3cr3tTail", "\x1fS3cr3tTail"):
        address = f"s3://bucket/x?access_key=bob&secret_key=S3cr3tHead&{tail}"
        for message in (address, repr(address)):
            assert clean(without_secrets(f"no such host: {message}", address, otherwise="OperationalError"))


@MANY
@given(ADDRESSES, st.sampled_from(["{}", "could not connect to {}", "no such host: {0!r}", "bad: {0} and {0}"]))
def test_a_drivers_message_is_given_only_without_them(address: str, message: str) -> None:
    assert clean(without_secrets(message.format(address), address, otherwise="OperationalError"))
    decoded = message.format(address.partition("://")[2].rpartition("@")[0])
    assert clean(without_secrets(decoded, address, otherwise="OperationalError"))


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/checkpoints",
        "s3://bucket/a@b/checkpoints?region=eu",
        "s3://bucket/x?endpoint_override=minio:9000&scheme=http",
        "gs://anonymous@bucket/x",
        "abfss://container@account.dfs.core.windows.net/x",
        "/a/folder",
        "relative/folder",
    ],
)
def test_addresses_without_credentials_are_taken_as_they_are(address: str, tmp_path: Path) -> None:
    check_address(address)
    check_address(place_under(address, "run", "00001"))


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKEY:SE/CRET@bucket/x",
        "s3://AKEY:SE%2FCRET@bucket/x",
        "s3://AKEY:SE?CRET@bucket/x",
        "s3://AKEY:SE#CRET@bucket/x",
        "s3://bucket/x?access_key=AKEY&secret_key=SECRET",
        "abfss://c@account/x?client_secret=SECRET",
        "s3://bucket/x?endpoint_override=http://AKEY:SECRET@minio",
        "s3://bucket/x?SECRET",
    ],
)
def test_addresses_that_may_hold_a_secret_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"AWS_SECRET_ACCESS_KEY|is no address") as caught:
        check_address(address)
    for secret in ("AKEY", "SECRET", "CRET@"):
        assert secret not in str(caught.value).replace("AWS_ACCESS_KEY_ID", "").replace("AWS_SECRET_ACCESS_KEY", "")


def test_a_plain_message_is_kept() -> None:
    message = "connection to server at 127.0.0.1, port 1 failed: user tuner, password hunter2"
    told = without_secrets(message, "postgresql://tuner:hunter2@127.0.0.1:1/ad", otherwise="OperationalError")
    assert told == "connection to server at 127.0.0.1, port 1 failed: user ***, password ***"


GIVEN = {
    "AWS_ACCESS_KEY_ID": "AKIAS3cr3tKey",
    "AWS_SECRET_ACCESS_KEY": "S3cr3tAws",
    "AWS_SESSION_TOKEN": "S3cr3tSession",
    "MLFLOW_TRACKING_USERNAME": "bob",
    "MLFLOW_TRACKING_PASSWORD": "S3cr3tMlflow",
    "PGPASSWORD": "S3cr3tPostgres",
    "WANDB_API_KEY": "5ec7e7" * 6 + "beef",
}
SHOWN = ("S3cr3t", "5ec7e7", base64.b64encode(b"bob:S3cr3tMlflow").decode().rstrip("="))
"""What every credential holds, and how HTTP sends one."""


class _Refusing(BaseHTTPRequestHandler):
    """An MLflow server that begins a run, and then refuses with the credentials that it was sent."""

    def do_GET(self) -> None:
        experiment = {"experiment_id": "1", "name": "run", "lifecycle_stage": "active"}
        self._answer(200, {"experiment": experiment})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(401, {"error_code": "PERMISSION_DENIED", "message": f"no {self.headers['Authorization']}"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def refusing_mlflow() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """Those of all processes that are started in the block."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for child in psutil.Process().children(recursive=True):
                try:
                    seen.add(" ".join(child.cmdline()))
                except psutil.Error:  # it has just ended
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb
def test_a_search_and_its_report_show_no_credential_of_any_service(server, tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    # What the listeners would set themselves is set here, so that it is gone after the test.
    for name, value in {**mlflow._QUIET, **wandb._QUIET, **GIVEN, "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "space.yaml").write_text(SPACE)
    machine = write_recordings(tmp_path / "machines", machine_type="press", train=6, test=4)
    run = RunFolder(tmp_path / "run")
    study = f"sqlite:///file:{tmp_path}/study.db?uri=true&password=S3cr3tStudy"
    store = f"s3://{BUCKET}/credentials?endpoint_override={server}&scheme=http"
    words = ["--space", str(tmp_path / "space.yaml"), "--data-root", str(machine), "--machine-type", "press"]
    words += ["--num-samples", "1", "--max-epochs", "1", "--local", "--verbose", "--output", str(run.path)]
    words += ["--study-storage", study, "--storage-path", store, "--wandb", "bob/press"]
    with refusing_mlflow() as uri, command_lines() as commands:
        assert main([*words, "--mlflow", uri]) == 0
    import wandb as service

    service.teardown()  # its process has this test's environment
    assert report([str(run.path), "--no-model"]) == 0
    assert f"MLflow at {uri} failed and receives nothing more: PERMISSION_DENIED: no Basic ***" in caplog.text
    assert any("wandb-core" in command for command in commands)
    assert list(run.path.glob("wandb/offline-run-*"))
    shown = {"output": "".join(capfd.readouterr()), "log": caplog.text, "ps": "\n".join(commands)}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            shown[str(path)] = path.read_bytes().decode("latin-1")
    assert run.path / "report.html" in map(Path, shown)
    assert [(where, word) for where, text in shown.items() for word in SHOWN if word in text] == []


def test_a_services_message_is_without_what_the_environment_holds(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "5ec7e7")
    monkeypatch.setenv("PGPASSWORD", "a+b")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "elsewhere")
    assert without_given_secrets("key 5ec7e7 or a+b, elsewhere") == "key *** or ***, elsewhere"
    assert without_given_secrets("sent Bearer abc.def and Basic Ym9i+/=") == "sent Bearer *** and Basic ***"
    assert without_given_secrets("Basic authentication needed") == "Basic authentication needed"


def test_credentials_hidden_from_ray_are_still_those_of_the_process(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S3cr3tAws")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    show = [sys.executable, "-c", "import os; print(os.environ['AWS_SECRET_ACCESS_KEY'])"]
    with hidden_credentials():
        assert "AWS_SECRET_ACCESS_KEY" not in os.environ
        assert subprocess.run(show, capture_output=True, text=True, check=True).stdout == "S3cr3tAws\n"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "S3cr3tAws"
    assert "AWS_SESSION_TOKEN" not in os.environ
