"""What every score of texts beside their references asks for: one for each."""

from __future__ import annotations

from collections.abc import Sized

from jaxgen.errors import UserError


def paired(score: str, references: Sized, texts: Sized) -> None:
    """Raises `UserError` where there is no text, or not as many references as texts."""
    if len(references) != len(texts):
        raise UserError(
            f"{score} was given {len(references)} references for {len(texts)} texts: give each "
            "text its own, in the same order."
        )
    if not len(texts):
        raise UserError(f"{score} was given no text: give at least one and its reference.")
