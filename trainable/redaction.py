"""Addresses and messages that are safe to show: anything that may be a credential is cut out. Standard library only."""

import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote

_HIDDEN = "***"
_PLAIN = re.compile(r"[\w.~!$&*+,;=^-]{3,}")
"""A credential that would appear unchanged in a driver's message and is not part of ordinary words."""
_SECRET_VARIABLE = re.compile("(PASSWORD|SECRET|TOKEN|ACCESS_KEY|ACCESS_KEY_ID|API_KEY)$")
_AUTHORIZATION = re.compile(r"\b(Basic|Bearer) +(?!auth)\S+")
"""A credential as HTTP sends it; "Basic authentication" is none."""


def redact(address: str) -> str:
    """An address without user, password, query and fragment; text before it (``--flag=``) stays.

    A password may hold any of ``/ ? # @ :``, though it should not: everything up to the last ``@`` is cut. If an ``@``
    could either end a password or be part of a query, only the scheme is shown.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        scheme, rest = "", address
    before, at, after = rest.rpartition("@")
    if at and re.search(r"[?#]", before):
        return f"{scheme}{mark}{_HIDDEN}"
    shown = re.split(r"[?#]", after, maxsplit=1)[0]
    return f"{scheme}{mark}{_HIDDEN}@{shown}" if at else f"{scheme}{mark}{shown}"


def holds_credentials(address: str) -> bool:
    """Whether something of an address would be cut."""
    return redact(address) != address


def without_words(text: str, words: Iterable[str]) -> str:
    """A message about a command line, with the addresses among its words redacted."""
    for word in sorted((word for word in words if "://" in word), key=len, reverse=True):
        for spelling in (word, repr(word)[1:-1]):
            text = text.replace(spelling, redact(word))
            flag, equals, value = spelling.partition("=")
            if equals and flag.startswith("--"):
                text = text.replace(value, redact(value))
    return text


def without_secrets(text: str, address: str, *, otherwise: str) -> str:
    """A driver's message about an address, without the address's credentials, raw or decoded.

    Drivers parse and quote addresses in different ways, so the text is returned only if each credential is plain enough
    to be found in it; else `otherwise` is.
    """
    _, _, rest = address.partition("://")
    before, at, after = rest.rpartition("@")
    secrets = []
    if at:
        user, _, password = before.partition(":")
        # A name of one or two letters is no secret, and removing it would remove half of the sentence.
        secrets += [each for each in (user if len(user) > 2 else "", password) if each]
    query = after.partition("?")[2] if "?" not in before else before
    # A name without a value is what stands behind an unescaped & in a credential.
    secrets += [value or name for name, value in parse_qsl(query, keep_blank_values=True)]
    spellings = {spelling for secret in secrets for spelling in (secret, unquote(secret))}
    if not all(_PLAIN.fullmatch(unquote(secret)) for secret in secrets):
        return otherwise
    for spelling in sorted((address, *spellings), key=len, reverse=True):
        text = text.replace(spelling, redact(address) if spelling == address else _HIDDEN)
    return text


def without_given_secrets(text: str) -> str:
    """A service's message without the credentials of the environment, as they were given or as HTTP sends them."""
    secrets = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name) and len(value) > 2}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _AUTHORIZATION.sub(rf"\1 {_HIDDEN}", text)


def one_line(error: BaseException) -> str:
    """An error's message in one line of at most 300 characters, without credentials; its type where it has none."""
    return without_given_secrets(" ".join(str(error).split()))[:300] or type(error).__name__
