"""What losses and scores see of an autoregressive model: two functions, whatever the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.experiment import Key, Params


@dataclass(frozen=True)
class LanguageModel:
    """A vector at each token, then scores of what comes next: these can be taken in parts.

    hidden: `(params, tokens (batch, time), positions or None, segments or None, key or None) ->
        (hidden (batch, time, width), penalties {name: scalar})`: each position's last vector, and
        what the model would have added to its loss. Without a key nothing is dropped.
    scores: `(params, hidden (*rows, width)) -> (*rows, vocabulary)`, float32 logits.
    """

    hidden: Callable[
        [Params, Array, Array | None, Array | None, Key | None], tuple[Array, Mapping[str, Array]]
    ]
    scores: Callable[[Params, Array], Array]


def language_model(network: Any) -> LanguageModel:
    """A Linen network with `Transformer`'s methods `hidden` and `scores`.

    Its penalties are what it sows in the collection "router", as a mixture of experts does: the
    mean over layers of each name.
    """

    def hidden(
        params: Params,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "batch time"] | None,
        segments: Int[Array, "batch time"] | None,
        key: Key | None,
    ) -> tuple[Float[Array, "batch time width"], dict[str, Float[Array, ""]]]:
        out, sown = network.apply(
            {"params": params},
            tokens,
            positions,
            segments,
            key is None,
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
