"""A long text as a few streams side by side, read on from step to step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from jaxgen.data.token_files import TokenFile
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Streams:
    """A `Source` for truncated back-propagation: row r of each batch goes on where it was.

    The text is cut into `batch_size` streams of one length; batch s holds part s of each, and after
    the last part comes the first again. Leaves: "tokens" (rows, length + 1), a part and the token
    after it; "mask" (rows, length), whether that token is there to be predicted; "begins" (rows,),
    whether the part is its stream's first; "stream" (rows,), its number.

    tokens: (size,), any integer type, or a file of them.
    length: tokens predicted in a part.

    Raises:
        UserError: where the streams are shorter than a part.
    """

    tokens: Integer[np.ndarray, "size"] | TokenFile
    length: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.length < 1 or self.batch_size < 1:
            raise UserError(
                f"streams need a length and a batch_size of at least 1, not {self.length} and "
                f"{self.batch_size}"
            )
        if self._each < self.length:
            raise UserError(
                f"a text of {len(self.tokens)} tokens makes {self.batch_size} streams of "
                f"{self._each}, shorter than the {self.length} of a step: use fewer rows, fewer "
                "steps of truncation or a longer text"
            )

    @property
    def parts(self) -> int:
        """How many batches read the text once."""
        return -(-self._each // self.length)

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Rows `rows` of batch `step`: every leaf is (rows.stop - rows.start, ...)."""
        part = step % self.parts
        numbers = np.arange(rows.start, rows.stop)
        within = part * self.length + np.arange(self.length + 1)
        places = numbers[:, None] * self._each + within
        # A stream's last token is predicted by it, and seen first by the next stream.
        there = (places < len(self.tokens)) & (within <= self._each)
        tokens = self.tokens[np.where(there, places, 0)].astype(np.int32)
        return {
            "tokens": np.where(there, tokens, np.int32(0)),
            "mask": there[:, 1:],
            "begins": np.full(len(numbers), part == 0),
            "stream": numbers.astype(np.int32),
        }

    @property
    def _each(self) -> int:
        return -(-(len(self.tokens) - 1) // self.batch_size)
