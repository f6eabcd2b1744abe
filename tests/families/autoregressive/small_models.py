"""A language model small enough to write out by hand: no layer between embedding and scores."""

import flax.linen as nn
import jax
import jax.numpy as jnp

WORDS, WIDTH = 13, 6


class Bigrams(nn.Module):
    """Scores the next token by the last one alone, with `Transformer`'s methods."""

    penalties: tuple[float, ...] = ()

    def setup(self):
        self.table = self.param("table", nn.initializers.normal(1.0), (WORDS, WIDTH))
        self.head = self.param("head", nn.initializers.normal(1.0), (WIDTH, WORDS))

    def __call__(self, tokens):
        return self.scores(self.hidden(tokens))

    def hidden(self, tokens, positions=None, segments=None, deterministic=True):
        for number in self.penalties:
            # As a mixture of experts of three layers leaves them.
            self.sow("router", "load_balance", number * jnp.arange(3.0))
            self.sow("router", "z", number * self.head.sum() * jnp.ones(3))
        return jnp.tanh(self.table[tokens])

    def scores(self, hidden):
        return hidden @ self.head


def initial(network, seed=0):
    return network.init(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32))["params"]
