"""Names in an exported detector's folder, and the digest of what it says."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KIND = "exported VQ-VAE anomaly detector"
VERSION = 2
"""2: with a digest of all that `MANIFEST` says."""
MANIFEST = "detector.json"
ARRAYS = "arrays.npz"


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of the values of `MANIFEST` without its field ``digest``, however they are laid out."""
    plain = {name: value for name, value in values.items() if name != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
