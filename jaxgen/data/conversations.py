"""Conversations and preferences between answers, from files with one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from etils import epath

from jaxgen.data.documents import json_lines
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Message:
    """What somebody says in a conversation."""

    role: str  # "system", "user", "assistant"
    content: str


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, of which people liked one better."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


def read_conversations(*paths: epath.PathLike) -> Iterator[tuple[Message, ...]]:
    """Conversations written as {"messages": [{"role": "user", "content": "..."}, ...]}.

    Raises `UserError`, with the place, where one is written otherwise, or a file is missing.
    """
    for path in paths:
        for number, found in enumerate(json_lines(path), start=1):
            yield _messages(found.get("messages"), f"'messages' of object {number} in {path}")


def read_preferences(*paths: epath.PathLike) -> Iterator[Preference]:
    """Preferences written as {"prompt": [messages], "chosen": "...", "rejected": "..."}.

    Raises `UserError`, with the place, where one is written otherwise, or a file is missing.
    """
    for path in paths:
        for number, found in enumerate(json_lines(path), start=1):
            place = f"of object {number} in {path}"
            prompt = _messages(found.get("prompt"), f"'prompt' {place}")
            answers = (_text(found, name, place) for name in ("chosen", "rejected"))
            yield Preference(prompt, *answers)


def _messages(found: Any, place: str) -> tuple[Message, ...]:
    if not isinstance(found, list) or not found:
        raise UserError(f"the field {place} must be a list of messages")
    for message in found:
        if not isinstance(message, dict):
            raise UserError(f"the field {place} must hold messages with 'role' and 'content'")
    where = f"of a message in {place}"
    return tuple(
        Message(_text(message, "role", where), _text(message, "content", where))
        for message in found
    )


def _text(found: dict[str, Any], name: str, place: str) -> str:
    text = found.get(name)
    if not isinstance(text, str):
        raise UserError(f"the field {name!r} {place} must be a text")
    return text
