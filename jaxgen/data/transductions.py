"""Pairs of a source and a target as rows of tokens, for encoder–decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Int32

from jaxgen.errors import UserError

Rows = Sequence[Sequence[int] | Int[np.ndarray, "_"]]


@dataclass(frozen=True)
class Transductions:
    """Item i is the i-th source and its target, each padded to one length.

    "source" (source_length,) and "tokens" (target_length + 2,) int32: `begin`, the target, `end`;
    "source_segments" and "mask" (target_length + 1,) tell padding, which is 0, from what counts.

    sources, targets: as many of each, without `begin` and `end`.
    source_length, target_length: room for the longest of each.

    Raises:
        UserError: for unequal numbers of them, none, or one that is empty or too long.
    """

    sources: Rows
    targets: Rows
    source_length: int
    target_length: int
    begin: int
    end: int
    _arrays: dict[str, np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.sources, self.targets, self.source_length, self.target_length)
        source, source_there = _padded(self.sources, self.source_length)
        target, target_there = _padded(self.targets, self.target_length)
        sizes = target_there.sum(1)
        tokens = np.pad(target, ((0, 0), (1, 1)))
        tokens[:, 0] = self.begin
        tokens[np.arange(len(tokens)), sizes + 1] = self.end
        mask = np.arange(self.target_length + 1)[None, :] <= sizes[:, None]
        arrays = {
            "source": source, "source_segments": source_there, "tokens": tokens, "mask": mask,
        }  # fmt: skip
        object.__setattr__(self, "_arrays", arrays)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        return {name: array[indices] for name, array in self._arrays.items()}


@dataclass(frozen=True)
class PackedTransductions:
    """The same pairs, as many to a row as there is room for, so that little of it is padding.

    "source" and "source_segments" (source_length,), "tokens" and "segments" (target_length + 1,):
    pair k of a row is segment k + 1 of both sides, and 0 is padding. Pairs fill rows in the order
    in which they come (next fit), so shuffle them first where they are sorted.

    sources, targets, begin, end: as `Transductions` has them.
    source_length, target_length: room for a row's sources, and for its targets, of which each takes
        two more for `begin` and `end`; the row has one place more than that.

    Raises:
        UserError: as `Transductions`.
    """

    sources: Rows
    targets: Rows
    source_length: int
    target_length: int
    begin: int
    end: int
    _arrays: dict[str, np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.sources, self.targets, self.source_length, self.target_length - 1)
        rows: list[list[int]] = [[]]
        letters, places = self.source_length, self.target_length + 1  # that are left in the row
        for number, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            if len(source) > letters or len(target) + 2 > places:
                rows.append([])
                letters, places = self.source_length, self.target_length + 1
            rows[-1].append(number)
            letters, places = letters - len(source), places - len(target) - 2
        shapes = {"source": self.source_length, "tokens": self.target_length + 1}
        arrays = {
            name: np.zeros((len(rows), shapes[of]), np.int32)
            for name, of in (
                ("source", "source"), ("source_segments", "source"), ("tokens", "tokens"),
                ("segments", "tokens"),
            )
        }  # fmt: skip
        for row, numbers in enumerate(rows):
            sources = [self.sources[number] for number in numbers]
            targets = [[self.begin, *self.targets[number], self.end] for number in numbers]
            for name, segments, parts in (
                ("source", "source_segments", sources), ("tokens", "segments", targets),
            ):  # fmt: skip
                joined = np.concatenate(parts)
                arrays[name][row, : len(joined)] = joined
                sizes = [len(part) for part in parts]
                which = np.repeat(np.arange(1, len(parts) + 1), sizes)
                arrays[segments][row, : len(joined)] = which
        object.__setattr__(self, "_arrays", arrays)

    def __len__(self) -> int:
        return len(self._arrays["tokens"])

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        return {name: array[indices] for name, array in self._arrays.items()}


def _check(sources: Rows, targets: Rows, source_length: int, target_length: int) -> None:
    if len(sources) != len(targets) or not len(sources):
        raise UserError(
            f"{len(sources)} sources and {len(targets)} targets make no pairs: give as many of "
            "each, and one at least."
        )
    for called, rows, room in (
        ("source", sources, source_length),
        ("target", targets, target_length),
    ):
        for number, row in enumerate(rows):
            if not 1 <= len(row) <= room:
                raise UserError(
                    f"The {called} number {number} has {len(row)} tokens, and there is room for 1 "
                    f"to {room}: shorten it, leave it out, or make more room."
                )


def _padded(
    rows: Rows, length: int
) -> tuple[Int32[np.ndarray, "rows length"], Int32[np.ndarray, "rows length"]]:
    """Rows of one length, filled up with 0, and 1 where they are real."""
    tokens, there = (np.zeros((len(rows), length), np.int32) for _ in range(2))
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        there[number, : len(row)] = 1
    return tokens, there
