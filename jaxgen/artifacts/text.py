"""Passages of text as an artifact."""

from __future__ import annotations

import json
from dataclasses import dataclass

from etils import epath


@dataclass(frozen=True)
class Text:
    """Passages of text.

    prompts: what each of them begins with, where they were continued.
    sizes: how many tokens each was continued by.
    """

    passages: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()

    def save(self, stem: epath.PathLike) -> list[epath.Path]:
        """One `.txt`, the passages divided by a rule."""
        path = epath.Path(f"{stem}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(("\n" + "-" * 80 + "\n").join(self.passages) + "\n")
        return [path]

    def show(self) -> str:
        """The passages themselves."""
        return ("\n" + "-" * 80 + "\n").join(self.passages)

    def lines(self) -> list[str]:
        """A JSON object for each passage: its "prompt", the "text" after that, its "tokens"."""
        every = zip(self.prompts, self.passages, self.sizes, strict=True)
        return [
            json.dumps(
                {"prompt": prompt, "text": text[len(prompt) :], "tokens": size}, ensure_ascii=False
            )
            for prompt, text, size in every
        ]
