"""What all artifacts can do."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from etils import epath


@runtime_checkable
class Artifact(Protocol):
    """Something a person can look at, read or play."""

    def save(self, stem: epath.PathLike) -> list[epath.Path]:
        """Writes files whose names begin with `stem`; returns their paths, the main one first."""
        ...

    def show(self) -> str:
        """A few plain lines for a terminal."""
        ...
