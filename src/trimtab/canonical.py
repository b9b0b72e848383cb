"""Canonical JSON and the content hashes made of it.

Knows nothing of what is hashed: identity of versions lives in `registry.identity`.
"""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """One byte string for the same JSON: keys sorted, no spaces, UTF-8. 1 and 1.0 are two.

    Raises ValueError for what is not JSON (NaN, infinities, half of a surrogate pair) and TypeError
    for other types.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def digest(data: bytes) -> str:
    """SHA-256 in 64 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 over the canonical JSON of `value`."""
    return digest(canonical_json(value))


def short(content: str) -> str:
    """The first twelve characters of a hash: enough for people, never a key."""
    return content[:12]
