"""Voices as a row of tokens, one a voice and step, and the rows that a model is trained on.

As in DeepBach (Hadjeres, Pachet & Nielsen 2017) a token says that a pitch begins or that the last
one is held; as in BachBot (Liang et al. 2017) all voices of a step stand together, the highest
first, and then come those of the next step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer

from jaxgen.data.sources import Arrays, Item
from jaxgen.errors import UserError

# A row begins with the first of these, or the second where it goes on within a piece; a piece ends
# with the third, in the highest voice's place.
BEGIN, CONTINUED, END, REST, HELD = range(5)
SPECIAL = 5  # from here on tokens are pitches

Pitches = Integer[np.ndarray, "steps voices"]  # of MIDI; -1 is a rest
Pieces = Sequence[Integer[np.ndarray, "_ voices"]]


@dataclass(frozen=True)
class VoiceEvents:
    """What the tokens of some voices mean.

    ranges: the lowest and the highest pitch of each voice in what is trained on, the highest voice
        first.
    lowest, highest: pitches that have a token.
    steps_per_beat: of the grid.
    """

    ranges: tuple[tuple[int, int], ...]
    lowest: int
    highest: int
    steps_per_beat: int = 4

    @staticmethod
    def of_pieces(training: Pieces, others: Pieces = ()) -> VoiceEvents:
        """Ranges of what is trained on, and tokens for all that is also in others.

        Raises:
            UserError: for a voice that always rests.
        """
        together = np.concatenate(list(training))
        if not (together >= 0).any(0).all():
            raise UserError("A voice rests throughout what is trained on: leave it out.")
        ranges = tuple((int(v[v >= 0].min()), int(v.max())) for v in together.T)
        everything = np.concatenate([together, *others])
        lowest = int(everything[everything >= 0].min())
        return VoiceEvents(ranges, lowest, int(everything.max()))

    @staticmethod
    def from_bytes(content: bytes) -> VoiceEvents:
        """What `to_bytes` wrote."""
        read = json.loads(content)
        ranges = tuple((low, high) for low, high in read.pop("ranges"))
        return VoiceEvents(ranges, **read)

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(vars(self)).encode()

    @property
    def voices(self) -> int:
        """Tokens a step."""
        return len(self.ranges)

    @property
    def per_beat(self) -> int:
        """Tokens a beat."""
        return self.voices * self.steps_per_beat

    @property
    def vocabulary_size(self) -> int:
        """Tokens are 0 .. vocabulary_size - 1."""
        return SPECIAL + self.highest - self.lowest + 1

    @property
    def begin(self) -> int:
        """The token before a piece."""
        return BEGIN

    @property
    def end(self) -> int:
        """The token after a piece."""
        return END

    def allowed(self) -> Bool[np.ndarray, "voices vocabulary"]:
        """What may stand at each voice's place: any pitch, and only in the highest's an end.

        Whether voices stay in their ranges is the model's to have learned.
        """
        allowed = np.ones((self.voices, self.vocabulary_size), bool)
        allowed[:, [BEGIN, CONTINUED, END]] = False
        allowed[0, END] = True
        return allowed

    def encode(self, pitches: Pitches) -> Int[np.ndarray, "tokens"]:
        """The tokens of some voices, (steps · voices,) int32; a pitch that comes again is held.

        Raises:
            UserError: for a pitch that has no token.
        """
        outside = pitches[(pitches >= 0) & ((pitches < self.lowest) | (pitches > self.highest))]
        if len(outside):
            raise UserError(
                f"The pitch {outside[0]} is none that the model knows, {self.lowest} .. "
                f"{self.highest}: transpose the music."
            )
        tokens = np.where(pitches < 0, REST, SPECIAL + pitches - self.lowest).astype(np.int32)
        same = np.where(pitches < 0, -1, pitches)
        tokens[1:][same[1:] == same[:-1]] = HELD
        return tokens.ravel()

    def decode(
        self, tokens: Integer[np.ndarray, "tokens"]
    ) -> tuple[Int[np.ndarray, "steps voices"], Bool[np.ndarray, "steps voices"]]:
        """Pitches, and where one is struck, of the whole steps before the end.

        A voice that holds before it has begun rests.
        """
        ends = np.flatnonzero(tokens == END)
        size = (ends[0] if len(ends) else len(tokens)) // self.voices * self.voices
        steps = np.asarray(tokens[:size]).reshape(-1, self.voices)
        struck = steps >= SPECIAL
        pitches = np.full(steps.shape, -1)
        for step, row in enumerate(steps):
            before = pitches[step - 1] if step else np.full(self.voices, -1)
            pitches[step] = np.where(row >= SPECIAL, row - SPECIAL + self.lowest, -1)
            pitches[step] = np.where(row == HELD, before, pitches[step])
        return pitches, struck

    def shifts(self, pitches: Pitches) -> range:
        """By how many semitones a piece may be moved for each voice to stay in its range.

        0 is always among them.
        """
        lowest, highest = -128, 128
        for voice, (low, high) in enumerate(self.ranges):
            line = pitches[:, voice]
            line = line[line >= 0]
            if len(line):
                lowest = max(lowest, low - int(line.min()))
                highest = min(highest, high - int(line.max()))
        return range(min(lowest, 0), max(highest, 0) + 1)


def whole_pieces(pieces: Pieces, events: VoiceEvents, length: int) -> Arrays:
    """Training pieces for `Moved` to cut rows from, each as often as it fills rows of `length`.

    "pitches" (longest, voices) int16, padded with rests, and "steps" int32.
    """
    longest = max(map(len, pieces))
    padded = np.full((len(pieces), longest, events.voices), -1, np.int16)
    for number, piece in enumerate(pieces):
        padded[number, : len(piece)] = piece
    steps = np.array([len(piece) for piece in pieces], np.int32)
    rows = np.repeat(np.arange(len(pieces)), -(-(steps * events.voices + 1) // length))
    return Arrays({"pitches": padded[rows], "steps": steps[rows]})


@dataclass(frozen=True)
class Moved:
    """An augmentation: a piece in a random key, and of a long one a random part, as a row.

    Keys are all of `VoiceEvents.shifts`, alike likely. Parts begin with a beat. Gives "tokens"
    (length + 1,) int32 and "mask" (length,), as `next_token_loss` takes them.

    length: tokens predicted; whole beats.
    """

    events: VoiceEvents
    length: int

    def __post_init__(self) -> None:
        _check(self.length, self.events)

    def __call__(self, item: Item, generator: np.random.Generator) -> Item:
        """A row of one of `whole_pieces`' items."""
        pitches = item["pitches"][: int(item["steps"])]
        shifts = self.events.shifts(pitches)
        shift = shifts[int(generator.integers(len(shifts)))]
        tokens = _whole(self.events, np.where(pitches < 0, -1, pitches + shift))
        starts = 1 + max(0, -(-(len(tokens) - self.length) // self.events.per_beat))
        start = int(generator.integers(starts)) * self.events.per_beat
        row, mask = _row(tokens, start, self.length)
        return {"tokens": row, "mask": mask}


def scored_rows(pieces: Pieces, events: VoiceEvents, length: int) -> Arrays:
    """Rows in which each token of each piece is predicted once, its end too.

    Of a piece longer than a row, rows go on every half row, so that all but its first tokens are
    predicted by half a row at least. "tokens" (length + 1,) int32 and "mask" (length,).
    """
    _check(length, events)
    stride = max(length // 2 // events.per_beat, 1) * events.per_beat
    rows = []
    for piece in pieces:
        tokens, start, predicted = _whole(events, piece), 0, 0
        while predicted < len(tokens):
            row, mask = _row(tokens, start, length)
            rows.append((row, mask & (start + np.arange(length) >= predicted)))
            predicted, start = start + length, start + stride
    return Arrays(
        {"tokens": np.stack([row for row, _ in rows]), "mask": np.stack([mask for _, mask in rows])}
    )


def _whole(events: VoiceEvents, pitches: Pitches) -> Int[np.ndarray, "tokens"]:
    return np.append(events.encode(pitches), np.int32(END))


def _row(
    tokens: Int[np.ndarray, "tokens"], start: int, length: int
) -> tuple[Int[np.ndarray, "{length}+1"], Bool[np.ndarray, "{length}"]]:
    part = tokens[start : start + length]
    row = np.zeros(length + 1, np.int32)
    row[0] = CONTINUED if start else BEGIN
    row[1 : len(part) + 1] = part
    return row, np.arange(length) < len(part)


def _check(length: int, events: VoiceEvents) -> None:
    if length < events.per_beat or length % events.per_beat:
        raise UserError(
            f"A row must hold whole beats, a multiple of {events.per_beat} tokens, not {length}."
        )
