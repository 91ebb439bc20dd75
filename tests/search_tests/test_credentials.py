"""Credentials stay where they were given: no password of any letters reaches manifest, title, logs or messages."""

import dataclasses
import json
import logging
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from search.request import SearchOptions, build_parser
from search.store.manifest import command_line, new_manifest
from search.store.study import SearchStudy
from tests.search_tests.synthetic import small_space
from trainable.checkpoint_place import check_address, place_under
from trainable.errors import ConfigError, RunError
from trainable.redaction import holds_credentials, redact, without_secrets

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
