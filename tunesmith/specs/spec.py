"""The one base of everything that crosses a process boundary: frozen, strict, and fingerprintable."""

import hashlib
import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict


class NotIdentity:
    """Marks a field that says *where* or *how fast*, not *what*: it stays out of fingerprints."""


_T = TypeVar("_T")
Where = Annotated[_T, NotIdentity()]


class Spec(BaseModel):
    """A frozen value that refuses unknown keys."""

    # Defaults too: a float's default written as 32 would not be the 32.0 read back from JSON, nor its fingerprint.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    def identity(self) -> Any:
        """What of this value counts for a fingerprint, as plain JSON."""
        return {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if not any(isinstance(mark, NotIdentity) for mark in field.metadata)
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.identity()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def fingerprint(*parts: Any) -> str:
    """16 hex digits over the identities of `parts`; no path, clock or key order changes it."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
