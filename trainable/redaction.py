"""Addresses as they may be shown: what may be a credential is cut out. Standard library only."""

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote

_HIDDEN = "***"
_PLAIN = re.compile(r"[\w.~!$&*+,;=^-]{3,}")
"""A credential that stands in a driver's message as it is, if it stands there, and is no part of ordinary words."""


def redact(address: str) -> str:
    """An address without user, password, query and fragment; words before it (``--flag=``) stay.

    A password may hold any of ``/ ? # @ :``, though it should not: everything up to the last ``@`` is cut. Where it
    cannot be known whether an ``@`` ends a password or is part of a query, nothing but the scheme is shown.
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
    """A driver's message about an address, without its credentials as they stand there or decoded.

    Drivers take an address apart in ways of their own, and quote. So the text is given only where each credential is
    plain enough to be found in it; else `otherwise`.
    """
    _, _, rest = address.partition("://")
    before, at, after = rest.rpartition("@")
    secrets = []
    if at:
        user, _, password = before.partition(":")
        # A name of one or two letters is no secret, and striking it out would strike out half of the sentence.
        secrets += [each for each in (user if len(user) > 2 else "", password) if each]
    query = after.partition("?")[2] if "?" not in before else before
    secrets += [value for _, value in parse_qsl(query, keep_blank_values=False)]
    spellings = {spelling for secret in secrets for spelling in (secret, unquote(secret))}
    if not all(_PLAIN.fullmatch(unquote(secret)) for secret in secrets):
        return otherwise
    for spelling in sorted((address, *spellings), key=len, reverse=True):
        text = text.replace(spelling, redact(address) if spelling == address else _HIDDEN)
    return text
