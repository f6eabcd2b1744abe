"""A model that writes music in voices: step by step, and in each step from the highest voice down.

To harmonize is to compose with the highest voice's tokens forced to be a melody's, as BachBot does
(Liang et al. 2017): each chord is chosen with the melody so far in sight, not with what is to come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer

from jaxgen.artifacts import Piece
from jaxgen.errors import UserError
from jaxgen.experiment import Key, Params
from jaxgen.families.autoregressive.automata import until_token
from jaxgen.families.autoregressive.decoder import Decoder
from jaxgen.families.autoregressive.decoding import generate, sampled
from jaxgen.families.autoregressive.logits import Processor
from jaxgen.families.autoregressive.policies import guided
from jaxgen.families.autoregressive.schedules import FREE, forced, in_turn

Pitches = Integer[np.ndarray, "steps voices"]  # of MIDI, from the highest voice; -1 is a rest


@runtime_checkable
class VoiceTokens(Protocol):
    """Pitches of voices to tokens and back."""

    @property
    def voices(self) -> int:
        """Tokens a step."""
        ...

    @property
    def steps_per_beat(self) -> int:
        """Steps a beat."""
        ...

    @property
    def begin(self) -> int:
        """The token before a piece."""
        ...

    @property
    def end(self) -> int:
        """The token after one."""
        ...

    def allowed(self) -> Any:
        """What may stand at each voice's place, (voices, vocabulary) bool."""
        ...

    def encode(self, pitches: Any) -> Any:
        """Tokens (steps · voices,) of pitches (steps, voices); a pitch that goes on is held."""
        ...

    def decode(self, tokens: Any) -> tuple[Any, Any]:
        """Pitches, and where one is struck, (steps, voices) each, of what is before an end."""
        ...


@dataclass(frozen=True)
class Composer:
    """What draws music, and what its tokens mean.

    decoder: of a network that reads a row of `tokens`; it begins with `tokens.begin`.
    """

    decoder: Decoder
    tokens: VoiceTokens

    def draw(
        self,
        params: Params,
        key: Key,
        prompts: Int[Array, "rows given"],
        melody: Int[Array, "rows steps"] | None,
        length: int,
        process: Processor,
    ) -> Int[Array, "rows written"]:
        """Rows of tokens without what begins them: the prompts' and up to `length` more.

        melody: the tokens of the highest voice from the prompts' end on; None leaves it free.
        """
        rows = prompts.shape[0]
        policies = [in_turn(jnp.asarray(self.tokens.allowed()))]
        if melody is not None:
            wanted = jnp.full((rows, melody.shape[1], self.tokens.voices), FREE)
            wanted = wanted.at[:, :, 0].set(melody)
            policies.append(forced(wanted.reshape(rows, -1)))
        vocabulary = self.tokens.allowed().shape[1]
        policies.append(guided(until_token(vocabulary, [self.tokens.end])))
        lengths = jnp.full(rows, prompts.shape[1], jnp.int32)
        written, _ = generate(
            self.decoder, params, key, prompts, lengths, sampled(*policies, process), length
        )
        return jnp.concatenate([prompts[:, 1:], written], axis=1)

    def pieces(
        self,
        rows: Int[np.ndarray, "rows written"],
        struck: Bool[np.ndarray, "given voices"] | None = None,
        tempo: float = 90.0,
    ) -> tuple[Piece, ...]:
        """What rows of tokens, as `draw` gives them, sound like.

        struck: where voices that were given repeat a note, which their tokens don't tell.
        """
        pieces = []
        for row in rows:
            pitches, onsets = self.tokens.decode(row)
            if struck is not None:
                size = min(len(struck), len(onsets))
                onsets[:size] |= struck[:size] & (pitches[:size] >= 0)
            pieces.append(Piece.of_grid(pitches, onsets, self.tokens.steps_per_beat, tempo))
        return tuple(pieces)

    def prompts(self, count: int, pitches: Pitches | None = None) -> Int[np.ndarray, "count given"]:
        """Rows that begin with some music, or from nothing."""
        tokens = [] if pitches is None else self.tokens.encode(pitches)
        row = np.concatenate([[self.tokens.begin], tokens]).astype(np.int32)
        return np.tile(row, (count, 1))

    def melody(self, line: Int[np.ndarray, "steps"]) -> Int[np.ndarray, "steps"]:
        """The highest voice's tokens that sing the given pitches, -1 being a rest.

        Raises:
            UserError: for a pitch that the model doesn't know.
        """
        pitches = np.full((len(line), self.tokens.voices), -1)
        pitches[:, 0] = line
        return self.tokens.encode(pitches).reshape(len(line), -1)[:, 0].astype(np.int32)

    def check_room(self, steps: int) -> None:
        """Raises `UserError` for a piece of so many steps that the decoder can't hold it."""
        context = self.decoder.context
        if context is not None and steps * self.tokens.voices + 1 > context:
            room = (context - 1) // self.tokens.voices // self.tokens.steps_per_beat
            raise UserError(f"The model writes at most {room} beats: ask for fewer.")
