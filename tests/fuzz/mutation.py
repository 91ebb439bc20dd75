"""Seeded mutations of good files: bits, cuts, repetitions, swapped pieces, and the words their formats are made of."""

import random
from collections.abc import Sequence

EXTREMES = (
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\x01\x00\x00\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
)
"""Sizes and counts that a header should not hold, little-endian."""


def mutated(rng: random.Random, content: bytes, words: Sequence[bytes] = ()) -> bytes:
    """The content after one to six mutations, at most 256 KiB."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        _mutate(rng, data, words)
    return bytes(data[: 256 * 1024])


def _mutate(rng: random.Random, data: bytearray, words: Sequence[bytes]) -> None:
    # Half of all mutations hit the first bytes: that is where headers are.
    reach = min(len(data), 200) if rng.random() < 0.5 else len(data)
    place = rng.randrange(reach + 1)
    length = rng.choice((1, 1, 2, 4, 8, 30, 200))
    kind = rng.randrange(9)
    if kind == 0 and place < len(data):
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place : place + length] = rng.randbytes(length)
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        del data[place : place + length]
    elif kind == 4:
        data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
    elif kind == 5:
        extreme = rng.choice(EXTREMES)
        data[place : place + len(extreme)] = extreme
    elif kind == 6 and data:
        source = rng.randrange(len(data))
        data[place : place + length] = data[source : source + length]
    elif words:
        word = rng.choice(words)
        data[place : place + (len(word) if kind == 7 else 0)] = word
    else:
        data[place:place] = rng.randbytes(length)
