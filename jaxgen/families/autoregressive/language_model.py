"""What losses and scores see of an autoregressive model: two functions, whatever the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.experiment import Key, Params


@flax.struct.dataclass
class Seen:
    """What a model sees of a batch; all but the tokens may be None.

    tokens, positions, segments: (batch, time), as `next_token_loss` has them, all but the last.
    source, source_segments: (batch, sources), the text that the tokens are an answer to.
    """

    tokens: Any
    positions: Any = None
    segments: Any = None
    source: Any = None
    source_segments: Any = None


@dataclass(frozen=True)
class LanguageModel:
    """A vector at each token, then scores of what comes next: these can be taken in parts.

    hidden: `(params, seen, key or None) -> (hidden (batch, time, width), penalties)`: each
        position's last vector, and scalars by name that the model would have added to its loss.
        Without a key nothing is dropped.
    scores: `(params, hidden (*rows, width)) -> (*rows, vocabulary)`, float32 logits.
    """

    hidden: Callable[[Params, Seen, Key | None], tuple[Array, Mapping[str, Array]]]
    scores: Callable[[Params, Array], Array]


def language_model(network: Any) -> LanguageModel:
    """A Linen network with `Transformer`'s methods `hidden` and `scores`.

    Its penalties are what it sows in the collection "router", as a mixture of experts does: the
    mean over layers of each name.
    """

    def arguments(seen: Seen, deterministic: bool) -> tuple[Any, ...]:
        return seen.tokens, seen.positions, seen.segments, deterministic

    return _applied(network, arguments)


def sourced_language_model(network: Any) -> LanguageModel:
    """A Linen network with `EncoderDecoder`'s methods, for batches with a "source"."""

    def arguments(seen: Seen, deterministic: bool) -> tuple[Any, ...]:
        if seen.positions is not None:
            raise UserError(
                "Targets of an encoder–decoder count their positions from 0: pack them without "
                '"positions", or one to a row.'
            )
        return seen.source, seen.tokens, seen.source_segments, seen.segments, deterministic

    return _applied(network, arguments)


def _applied(network: Any, arguments: Callable[[Seen, bool], tuple[Any, ...]]) -> LanguageModel:
    def hidden(
        params: Params, seen: Seen, key: Key | None
    ) -> tuple[Float[Array, "batch time width"], dict[str, Float[Array, ""]]]:
        out, sown = network.apply(
            {"params": params},
            *arguments(seen, key is None),
            rngs=None if key is None else {"dropout": key},
            mutable=["router"],
            method="hidden",
        )
        return out, _means_by_name(sown)

    def scores(
        params: Params, hidden: Float[Array, "*rows width"]
    ) -> Float[Array, "*rows vocabulary"]:
        return network.apply({"params": params}, hidden, method="scores")

    return LanguageModel(hidden, scores)


def _means_by_name(sown: Any) -> dict[str, Float[Array, ""]]:
    """The mean of all that a network's modules sowed under each name, over layers and calls."""
    found: dict[str, list[Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(sown):
        name = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)][-1]
        found.setdefault(name, []).append(leaf.ravel())
    return {name: jnp.concatenate(leaves).mean() for name, leaves in found.items()}
