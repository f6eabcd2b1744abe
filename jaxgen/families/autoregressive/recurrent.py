"""Recurrent language models: a stack of recurrent layers between embedding and scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.nn.embedding import TokenEmbedding
from jaxgen.nn.linear import Linear
from jaxgen.nn.recurrence import Carry, Marks

Tokens = Int[Array, "batch time"]
Hidden = Float[Array, "batch time width"]


class RecurrentLanguage(nn.Module):
    """Logits of the next token at each position, with `Transformer`'s methods for loss and scores.

    vocabulary, width: sizes; the width is that of the tokens' vectors.
    stack: makes the layers, as `RecurrentStack`, called with `name`.
    tied: scores tokens by their vectors, for which the stack has to end as wide.
    dropout: on the tokens' vectors.
    variational: drops the same numbers of a row's vectors at all steps.
    dtype: of embedding and scores; the layers have their own.
    """

    vocabulary: int
    width: int
    stack: Callable[..., nn.Module]
    tied: bool = False
    dropout: float = 0.0
    variational: bool = False
    dtype: Any = jnp.float32

    def __call__(self, tokens: Tokens) -> Float[Array, "batch time vocabulary"]:
        """Float32 logits at every position of texts that begin with the row."""
        return self.scores(self.hidden(tokens))

    def initial(self, batch: int) -> Carry:
        """What is remembered of no text."""
        carry: Carry = self.stack(parent=None).initial(batch)
        return carry

    def hidden(
        self,
        tokens: Tokens,
        positions: Int[Array, "batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
        deterministic: bool = True,
    ) -> Hidden:
        """The top layer's vectors.

        Args:
            positions: count for nothing.
            segments: where they change, a new text begins (packed texts).
            deterministic: switches dropout off; otherwise `rngs={"dropout": key}` is needed.
        """
        begins = None
        if segments is not None:
            begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
        return self.read(tokens, None, Marks(begins), deterministic)[0]

    def read(
        self,
        tokens: Tokens,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Hidden, Carry]:
        """The top layer's vectors of a part of a text, and what to go on with."""
        x = self._drop(self._embedding(tokens), deterministic=deterministic)
        hidden, carry = self._layers(x, carry, marks, deterministic)
        return hidden, carry

    def prefill(
        self, tokens: Tokens, lengths: Int[Array, "batch"]
    ) -> tuple[Float[Array, "batch vocabulary"], Carry]:
        """Reads prompts, the first lengths[row] tokens of each row: the logits after each."""
        reads = jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]
        x, carry = self.read(tokens, None, Marks(reads=reads))
        last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)
        return self.scores(last)[:, 0], carry

    def extend(
        self, tokens: Tokens, carry: Carry
    ) -> tuple[Float[Array, "batch time vocabulary"], Carry]:
        """Reads more tokens: the logits after each."""
        x, carry = self.read(tokens, carry)
        return self.scores(x), carry

    def scores(self, hidden: Float[Array, "*rows width"]) -> Float[Array, "*rows vocabulary"]:
        """Float32 logits of vectors that `hidden` made."""
        if self.tied:
            return self._embedding.scores(hidden)
        return self._head(hidden).astype(jnp.float32)

    def setup(self) -> None:
        """The parts, under the names that their parameters have."""
        self._embedding = TokenEmbedding(
            self.vocabulary, self.width, nn.initializers.normal(0.1), self.dtype, name="tokens"
        )
        self._layers = self.stack(name="stack")
        if not self.tied:
            names = ("embed", "vocab")
            self._head = Linear((self.vocabulary,), names, dtype=self.dtype, name="head")
        self._drop = nn.Dropout(self.dropout, broadcast_dims=(1,) if self.variational else ())
