"""Text as items: random windows, a full pass, packed documents.

A row of tokens is one longer than the context, so that a loss can shift it by itself: positions
0 .. length-1 are seen, 1 .. length predicted.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath
from jaxtyping import Bool, Int, Integer

from jaxgen.data.token_files import TokenFile
from jaxgen.errors import UserError


def read_corpus(path: epath.PathLike) -> str:
    """The text of a UTF-8 file; UserError where there is none, or none that can be read."""
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"the corpus {path} doesn't exist")
    if file.is_dir():
        raise UserError(f"the corpus {path} is a directory, give a text file")
    try:
        text = file.read_bytes().decode("utf-8-sig")  # without a byte-order mark, if it has one
    except UnicodeDecodeError as error:
        raise UserError(
            f"the corpus {path} is not UTF-8 at byte {error.start}: convert it, for example by "
            f"`iconv -f ISO-8859-1 -t UTF-8`"
        ) from error
    if not text.strip():
        raise UserError(f"the corpus {path} is empty: it needs text to learn from")
    return text


def text_split(path: epath.PathLike, training: float = 0.9) -> tuple[str, str]:
    """A text file's first part, to train on, and the rest, to validate.

    UserError as `read_corpus`.
    """
    text = read_corpus(path)
    border = int(len(text) * training)
    return text[:border], text[border:]


def fingerprint(parts: tuple[str, ...]) -> bytes:
    """The SHA-256 of a text, whatever the parts that it comes in, in hexadecimal digits."""
    text = "".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest().encode()


def unchanged(parts: tuple[str, ...], known: bytes) -> tuple[str, ...]:
    """The same parts; UserError where their fingerprint isn't the one that a run has kept."""
    if (found := fingerprint(parts)) != known:
        raise UserError(
            f"the corpus has changed since this run began (its SHA-256 was {known.decode()[:12]}…, "
            f"now it is {found.decode()[:12]}…): put the old text back, or train anew"
        )
    return parts


@dataclass(frozen=True)
class Windows:
    """Every window of a long text, overlapping: item i is tokens i .. i+length.

    Shuffled, these are nanoGPT's random batches, without repetition within an epoch.

    tokens: (size,), any integer type, or a file of them; size > length.
    length: tokens predicted in an item; its "tokens" are (length + 1,) int32.
    """

    tokens: Integer[np.ndarray, "size"] | TokenFile
    length: int

    def __post_init__(self) -> None:
        _check_length(self.length)
        if len(self.tokens) <= self.length:
            raise UserError(
                f"a text of {len(self.tokens)} tokens has no window of {self.length} tokens and "
                f"the next: use a longer text or a shorter context"
            )

    def __len__(self) -> int:
        return len(self.tokens) - self.length

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        places = np.asarray(indices)[:, None] + np.arange(self.length + 1)
        return {"tokens": self.tokens[places].astype(np.int32)}


@dataclass(frozen=True)
class Blocks:
    """The full pass over a text: each token but the first is predicted in exactly one item.

    Item i has "tokens" (length + 1,) int32 from i·length on, the last padded with 0, and "mask"
    (length,) bool: mask[t] says whether tokens[t + 1] is there to be predicted.

    tokens: (size,), any integer type, or a file of them; size of at least 2.
    """

    tokens: Integer[np.ndarray, "size"] | TokenFile
    length: int

    def __post_init__(self) -> None:
        _check_length(self.length)
        if len(self.tokens) < 2:
            raise UserError(f"a text of {len(self.tokens)} tokens has nothing to predict")

    def __len__(self) -> int:
        return -(-(len(self.tokens) - 1) // self.length)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        places = np.asarray(indices)[:, None] * self.length + np.arange(self.length + 1)
        there = places < len(self.tokens)
        tokens = self.tokens[np.where(there, places, 0)].astype(np.int32)
        return {"tokens": np.where(there, tokens, np.int32(0)), "mask": there[:, 1:]}


class Packed:
    """Documents packed side by side in rows, best fit first, the longest first.

    The packing is worked out once, as an index. Items, each leaf (length + 1,) int32:
    "tokens"; "segments", 1, 2, ... a document, 0 where the row is padded; "positions", counted
    from 0 in each segment. tokens[t + 1] is there to be predicted where segments[t + 1] is not 0
    and equals segments[t]. With `masks`, "mask" (length,) bool: mask[t] says whether tokens[t + 1]
    is moreover one of those to be learned.

    documents: token arrays. Longer ones than a row are cut in pieces that share one token, so
        that no prediction is lost; those of fewer than two tokens predict nothing and are left out.
    length: tokens predicted in a full row.
    padding: the token that fills rows up.
    masks: a bool for each token of each document; None learns all.
    """

    def __init__(
        self,
        documents: Sequence[Integer[np.ndarray, "_"]],
        length: int,
        padding: int = 0,
        masks: Sequence[Bool[np.ndarray, "_"]] | None = None,
    ) -> None:
        _check_length(length)
        if masks is not None and [*map(len, masks)] != [*map(len, documents)]:
            raise UserError("masks must say of every token of every document whether it is learned")
        self.length = length
        self.padding = padding
        starts: list[int] = []
        sizes: list[int] = []
        offset = 0
        for document in documents:
            for start in range(0, len(document) - 1, length):
                starts.append(offset + start)
                sizes.append(min(length + 1, len(document) - start))
            offset += len(document)
        if not sizes:
            raise UserError("no document has two tokens, so there is nothing to predict")
        rows = _best_fit(sizes, length + 1)
        order = np.array([piece for row in rows for piece in row])
        flat = np.concatenate([np.asarray(document) for document in documents])
        self._tokens = flat.astype(np.int32)
        self._learned = None if masks is None else np.concatenate(masks)
        self._starts, self._sizes = np.array(starts)[order], np.array(sizes)[order]
        self._first_piece = np.cumsum([0] + [len(row) for row in rows])

    def __len__(self) -> int:
        return len(self._first_piece) - 1

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        shape = (len(indices), self.length + 1)
        tokens = np.full(shape, self.padding, np.int32)
        segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        learned = np.zeros(shape, bool)
        for row, index in enumerate(indices):
            column = 0
            pieces = range(self._first_piece[index], self._first_piece[index + 1])
            for segment, piece in enumerate(pieces, start=1):
                start, size = self._starts[piece], self._sizes[piece]
                here = slice(column, column + size)
                tokens[row, here] = self._tokens[start : start + size]
                segments[row, here] = segment
                positions[row, here] = np.arange(size)
                if self._learned is not None:
                    learned[row, here] = self._learned[start : start + size]
                    learned[row, column] = False  # nothing predicts a piece's first token
                column += size
        packed = {"tokens": tokens, "segments": segments, "positions": positions}
        return packed if self._learned is None else {**packed, "mask": learned[:, 1:]}


def _best_fit(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Rows of pieces, none wider than `width`: best-fit decreasing (Johnson et al., 1974)."""
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(width + 1)]  # by the room left in them
    rooms: list[int] = []  # the sizes of room that some row has left, ascending
    for piece in sorted(range(len(sizes)), key=lambda piece: -sizes[piece]):
        place = bisect.bisect_left(rooms, sizes[piece])
        if place == len(rooms):
            row, room = len(rows), width
            rows.append([])
        else:
            room = rooms[place]
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms.pop(place)
        rows[row].append(piece)
        room -= sizes[piece]
        if not open_rows[room]:
            bisect.insort(rooms, room)
        open_rows[room].append(row)
    return rows


def _check_length(length: int) -> None:
    if length < 1:
        raise UserError(f"length must be at least 1, not {length}")
