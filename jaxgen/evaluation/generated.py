"""Scores of a generator of pictures: what it draws, looked at by one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxgen.evaluation.image_scores import Read, feature_scores, reference
from jaxgen.evaluation.modes import class_entropy
from jaxgen.evaluation.pieces import in_pieces
from jaxgen.evaluation.spread import relative_spread
from jaxgen.experiment import Key, Model, taken
from jaxgen.parallel.sharding import fetched

Draw = Callable[[Model, Key, int], Array]  # (model, key, count) -> pictures in [-1, 1]
Score = Callable[[Model, Mapping[str, Any], Key], dict[str, float]]


def generated_scores(read: Read, draw: Draw, samples: int, classes: int = 0) -> Score:
    """All of `image_scores`, over so many samples, against the data's "test".

    classes: where the model was asked for 0, 1, 2, ... in turn, so many of them; adds
        "label_agreement", the share of samples that are seen as what was asked for.
    """

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        # Pieces that hold whole turns, so that sample i was asked to be of class i modulo classes.
        piece = max(1, 1000 // max(1, classes)) * max(1, classes)
        drawn = in_pieces(lambda key, count: draw(model, key, count), key, samples, piece)
        seen = reference(read, drawn)
        scores = feature_scores(reference(read, data["test"]), seen)
        if classes:
            agree = seen.labels == np.arange(samples) % classes
            scores["label_agreement"] = float(np.mean(agree))
        return scores

    return score


def seen_classes(read: Read, draw: Draw, classes: int, samples: int = 500) -> Score:
    """The "entropy" of the classes that so few samples show, in nats: a cheap watch on collapse."""
    drawn = jax.jit(draw, static_argnums=2)

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        labels, _ = read(fetched(drawn(model, key, samples)))
        return {"entropy": class_entropy(labels, classes)}

    return score


def seen_spread(draw: Draw, samples: int = 500) -> Score:
    """The "spread" of so few samples, relative to as many of "test": a watch without a classifier.

    Raises `UserError` where the data's "test" has fewer.
    """
    drawn = jax.jit(draw, static_argnums=2)

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        real = taken(data["test"], 0, samples)["image"]
        return {"spread": relative_spread(real, fetched(drawn(model, key, samples)))}

    return score
