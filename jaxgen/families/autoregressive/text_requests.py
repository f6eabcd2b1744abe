"""What is asked of a language model's samplers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxgen.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How to write, whatever it is."""

    tokens: int = 500  # how many tokens to write, at most
    temperature: float = 0.8  # below 1 is safer, above 1 bolder; 0 takes the likeliest token
    top_k: int = 0  # draw from so many likeliest tokens; 0 is all
    top_p: float = 1.0  # draw from the fewest tokens with this probability together; 1 is all
    min_p: float = 0.0  # draw from tokens at least this share as likely as the likeliest; 0 is all
    typical: float = 1.0  # draw from the most typical tokens with this probability; 1 is all
    repetition: float = 1.0  # divides the logits of tokens that the text has already; 1 is off
    frequency: float = 0.0  # lowers a token's logit each time it is written
    presence: float = 0.0  # lowers it once
    stop: tuple[str, ...] = ()  # end where one of these would be written
    count: int = 1  # how many passages
    seed: int = 0  # another seed writes other passages


@dataclass(frozen=True)
class GenerateRequest(Drawing):
    """What to write."""

    prompt: str = "\n"  # the text to go on from


@dataclass(frozen=True)
class Reading:
    """What a request asks to go on from, and what is shown of that.

    request: a `Drawing` with a `prompt`.
    tokens: those that are read, (size,); raises `UserError` for what it doesn't know.
    shown: what a passage begins with, in place of the text of those tokens; None is just this.
    """

    request: type
    tokens: Callable[[Any], Any]
    shown: Callable[[Any], str] | None = None


def check(request: Drawing) -> None:
    """Raises `UserError` for a request out of range."""
    for name, good, cure in (
        ("temperature", request.temperature >= 0, "at least 0"),
        ("top_k", request.top_k >= 0, "at least 0"),
        ("top_p", 0 < request.top_p <= 1, "above 0 and at most 1"),
        ("min_p", 0 <= request.min_p <= 1, "between 0 and 1"),
        ("typical", 0 < request.typical <= 1, "above 0 and at most 1"),
        ("repetition", request.repetition > 0, "above 0"),
        ("tokens", request.tokens >= 1, "at least 1"),
        ("count", request.count >= 1, "at least 1"),
    ):
        if not good:
            raise UserError(f"{name} must be {cure}, not {getattr(request, name)}.")
