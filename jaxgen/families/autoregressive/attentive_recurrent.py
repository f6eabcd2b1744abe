"""Recurrent networks that read a source by attention, Bahdanau's and Luong's.

The encoder reads the source in both directions. The decoder writes the target, and at each step
looks at the encoder's vectors: before its recurrent layers move, as Bahdanau et al. (2015) do, or
after, as Luong et al. (2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import UserError
from jaxgen.nn.embedding import TokenEmbedding
from jaxgen.nn.linear import Linear
from jaxgen.nn.recurrence import Carry, chosen

Source = Int[Array, "batch sources"]
Tokens = Int[Array, "batch time"]
Vectors = Float[Array, "batch width"]


@flax.struct.dataclass
class Memory:
    """The encoder's vectors, (batch, sources, features), and where there are any, (batch, sources).

    keys: what is compared with a query, (batch, sources, width): worked out once for all steps.
    """

    values: Any
    keys: Any
    reads: Any


class AdditiveScores(nn.Module):
    """v·tanh(query·W + key): Bahdanau et al. 2015, appendix A.1.2."""

    @nn.compact
    def __call__(
        self, query: Vectors, keys: Float[Array, "batch sources keys"]
    ) -> Float[Array, "batch sources"]:
        """How much each place of the source matters, before the softmax."""
        width = keys.shape[-1]
        asked = Linear((width,), ("embed", "mlp"), bias=False, name="query")(query)
        seen = jnp.tanh(asked[:, None] + keys)
        return Linear((1,), ("embed", None), bias=False, name="score")(seen)[..., 0]


class ProductScores(nn.Module):
    """query·key: Luong et al. 2015, equation 8, "general", whose W is in the keys."""

    @nn.compact
    def __call__(
        self, query: Vectors, keys: Float[Array, "batch sources keys"]
    ) -> Float[Array, "batch sources"]:
        """How much each place of the source matters, before the softmax."""
        return jnp.einsum("bd,bsd->bs", query, keys)


def attended(scores: Float[Array, "batch sources"], memory: Memory) -> Vectors:
    """The mean of the memory's vectors by the softmax of the scores: the papers' context, c."""
    there = jnp.where(memory.reads, scores, -jnp.inf)
    return jnp.einsum("bs,bsd->bd", jax.nn.softmax(there, axis=-1), memory.values)


class LookBefore(nn.Module):
    """A step of Bahdanau's: the last state asks, and the context goes into the layers.

    The carry is (the stack's, the last output of its top).

    stack: makes the recurrent layers, called with `name`.
    width: of what comes out.
    scores: makes the comparison, called with `name`.
    """

    stack: Callable[..., nn.Module]
    width: int
    scores: Callable[..., nn.Module] = AdditiveScores

    @nn.compact
    def __call__(
        self, carry: Carry, token: Vectors, memory: Memory, deterministic: bool
    ) -> tuple[Carry, Vectors]:
        """The next carry, and a vector to score tokens by."""
        state, top = carry
        context = attended(self.scores(name="scores")(top, memory.keys), memory)
        read = jnp.concatenate([token, context], axis=-1)
        y, state = self.stack(name="stack")(read[:, None], state, None, deterministic)
        seen = jnp.concatenate([y[:, 0], context, token], axis=-1)
        out = jnp.tanh(Linear((self.width,), ("embed", "mlp"), name="out")(seen))
        return (state, y[:, 0]), out


class LookAfter(nn.Module):
    """A step of Luong's: the new state asks, and what came out goes into the next step.

    The carry is (the stack's, the last vector that came out: input feeding, section 3.3).

    stack, width, scores: as in `LookBefore`.
    """

    stack: Callable[..., nn.Module]
    width: int
    scores: Callable[..., nn.Module] = ProductScores

    @nn.compact
    def __call__(
        self, carry: Carry, token: Vectors, memory: Memory, deterministic: bool
    ) -> tuple[Carry, Vectors]:
        """The next carry, and a vector to score tokens by."""
        state, fed = carry
        read = jnp.concatenate([token, fed], axis=-1)
        y, state = self.stack(name="stack")(read[:, None], state, None, deterministic)
        context = attended(self.scores(name="scores")(y[:, 0], memory.keys), memory)
        seen = jnp.concatenate([context, y[:, 0]], axis=-1)
        out = jnp.tanh(Linear((self.width,), ("embed", "mlp"), bias=False, name="out")(seen))
        return (state, out), out


class AttentiveRecurrent(nn.Module):
    """Logits of the next target token, given a source; with `EncoderDecoder`'s methods.

    vocabulary, width: sizes; source and target share one vocabulary and its vectors.
    encoder: makes what reads the source, as `BothWays`, called with `name`.
    step: `LookBefore` or `LookAfter` with their layers, whose top is `width` wide as well; called
        with `width`.
    dropout: on the tokens' vectors, and on those that tokens are scored by.
    """

    vocabulary: int
    width: int
    encoder: Callable[..., nn.Module]
    step: Callable[..., nn.Module]
    dropout: float = 0.0

    def __call__(
        self, source: Source, tokens: Tokens, source_segments: Source | None = None
    ) -> Float[Array, "batch time vocabulary"]:
        """Float32 logits at every target position."""
        return self.scores(self.hidden(source, tokens, source_segments))

    def hidden(
        self,
        source: Source,
        tokens: Tokens,
        source_segments: Source | None = None,
        segments: Tokens | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch time width"]:
        """The vectors that tokens are scored by.

        source_segments: 0 where a source is padding.

        Raises:
            UserError: for `segments`: targets lie one to a row.
        """
        if segments is not None:
            raise UserError("Recurrent attention reads one pair a row: don't pack them.")
        carry, memory = self.begin(source, source_segments, deterministic)
        return self.follow(carry, memory, tokens, None, deterministic)[1]

    def begin(
        self, source: Source, source_segments: Source | None = None, deterministic: bool = True
    ) -> tuple[Carry, Memory]:
        """Reads a source: where to begin the target, and what to look at."""
        reads = jnp.ones(source.shape, bool) if source_segments is None else source_segments > 0
        x = self._drop(self._embedding(source), deterministic=deterministic)
        values, (_, first) = self._encoder(x, reads, deterministic)
        memory = Memory(values, self._keys(values), reads)
        # Bahdanau's: the layers begin where the encoder's way back ended, at the source's start.
        start = jnp.tanh(self._start(first[0]))
        empty = self.step(width=self.width, parent=None).stack(parent=None).initial(len(source))
        state = tuple((self._fitting(start, layer[0]), *layer[1:]) for layer in empty)
        return (state, start), memory

    def follow(
        self,
        carry: Carry,
        memory: Memory,
        tokens: Tokens,
        reads: Bool[Array, "batch time"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Carry, Float[Array, "batch time width"]]:
        """Reads target tokens: the vectors after each; where `reads` is False nothing moves."""
        x = self._drop(self._embedding(tokens), deterministic=deterministic)
        reads = jnp.ones(tokens.shape, bool) if reads is None else reads

        def one(
            step: nn.Module, carry: Carry, given: tuple[Vectors, Bool[Array, "batch"]]
        ) -> tuple[Carry, Vectors]:
            token, there = given
            after, out = step(carry, token, memory, deterministic)
            return chosen(there, after, carry), out

        through = nn.scan(
            one,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=1,
            out_axes=1,
        )
        carry, hidden = through(self._step, carry, (x, reads))
        return carry, self._drop(hidden, deterministic=deterministic)

    def scores(self, hidden: Float[Array, "*rows width"]) -> Float[Array, "*rows vocabulary"]:
        """Float32 logits of vectors that `hidden` made."""
        return self._embedding.scores(hidden)

    def setup(self) -> None:
        """The parts, under the names that their parameters have."""
        self._embedding = TokenEmbedding(
            self.vocabulary, self.width, nn.initializers.normal(self.width**-0.5), name="tokens"
        )
        self._encoder = self.encoder(name="encoder")
        self._keys = Linear((self.width,), ("embed", "mlp"), bias=False, name="keys")
        self._start = Linear((self.width,), ("embed", "mlp"), name="start")
        self._step = self.step(width=self.width, name="step")
        self._drop = nn.Dropout(self.dropout)

    def _fitting(self, start: Array, empty: Array) -> Array:
        # A layer of another width begins at 0.
        return start if start.shape == empty.shape else empty
