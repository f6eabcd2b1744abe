"""Pairs of answers, one of which is preferred, as items for preference tuning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxgen.data.chat import Chat
from jaxgen.data.conversations import Preference
from jaxgen.errors import UserError


class Preferences:
    """Two answers to one prompt in each item, as direct preference optimization compares them.

    Leaves "chosen" and "rejected", (length + 1,) int32: the prompt with either answer, then
    padding; "chosen_mask" and "rejected_mask", (length,) bool: whether the token after this one
    is the answer's, the token that ends it included.

    length: tokens predicted in a row.
    padding: the token that fills rows up.
    Raises `UserError` for a pair that is longer, and where there are none.
    """

    def __init__(
        self, pairs: Sequence[Preference], chat: Chat, length: int, padding: int = 0
    ) -> None:
        if not len(pairs):
            raise UserError("there are no preferences to learn from")
        shape = (len(pairs), length + 1)
        self._leaves: dict[str, np.ndarray] = {}
        for name in ("chosen", "rejected"):
            self._leaves[name] = np.full(shape, padding, np.int32)
            self._leaves[f"{name}_mask"] = np.zeros((len(pairs), length), bool)
        for row, pair in enumerate(pairs):
            prompt = chat.prompt(pair.prompt)
            for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
                said = [*chat.tokenizer.encode_ordinary([answer])[0].tolist(), chat.end]
                stop = len(prompt) + len(said)
                if stop > length + 1:
                    raise UserError(
                        f"the {name} answer of preference {row} makes {stop} tokens with its "
                        f"prompt, more than a row of {length + 1}: leave it out, or raise length"
                    )
                self._leaves[name][row, :stop] = [*prompt.tolist(), *said]
                self._leaves[f"{name}_mask"][row, len(prompt) - 1 : stop - 1] = True

    @classmethod
    def short(
        cls, pairs: Sequence[Preference], chat: Chat, length: int, padding: int = 0
    ) -> Preferences:
        """The same of those pairs that have room in a row."""

        def fits(pair: Preference, answer: str) -> bool:
            said = chat.tokenizer.encode_ordinary([answer])[0]
            return len(chat.prompt(pair.prompt)) + len(said) <= length

        kept = [pair for pair in pairs if all(fits(pair, a) for a in (pair.chosen, pair.rejected))]
        return cls(kept, chat, length, padding)

    def __len__(self) -> int:
        return len(self._leaves["chosen"])

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        return {name: leaf[indices] for name, leaf in self._leaves.items()}
