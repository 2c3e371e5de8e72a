"""Keyed pseudonyms, which replace in tables the ids that a hospital gave its patients.

HMAC-SHA-256 (RFC 2104) of the id: who holds the key can find an id again by trying all, nobody else
can, and one id has one pseudonym in all tables made with the key.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path

_LEAST_BYTES, _MOST_BYTES = 16, 2**16
_DIGITS = 20  # 80 bits: two of a billion ids share a pseudonym with a chance of one in a million
_SHORTEST = 4  # characters of an id that is looked for in a path


@dataclass(frozen=True)
class Pseudonyms:
    """Turns ids into pseudonyms.

    Attributes:
      key: 16 bytes or more, kept where the ids are.
    """

    key: bytes = field(repr=False)

    def __call__(self, identifier: str) -> str:
        """20 hexadecimal digits; empty if there is no id."""
        if not identifier:
            return ""
        return hmac.new(self.key, identifier.encode(), hashlib.sha256).hexdigest()[:_DIGITS]

    @property
    def fingerprint(self) -> str:
        """Tells two keys apart and nothing else."""
        return self("the key itself")


def read_key(path: Path) -> Pseudonyms:
    """Reads a key file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is too short to be a secret, or too long to be meant.
    """
    with path.open("rb") as file:
        key = file.read(_MOST_BYTES + 1)
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise ValueError(
            f"{path} has {len(key):,} bytes; a key has {_LEAST_BYTES} to {_MOST_BYTES:,}. Make one "
            f"with: head -c 32 /dev/urandom > {path}"
        )
    return Pseudonyms(key)


def names_patient(path: str, patient: str) -> bool:
    """True if a path holds the id of its patient, which a pseudonym would not hide."""
    return len(patient) >= _SHORTEST and patient.lower() in path.lower()
