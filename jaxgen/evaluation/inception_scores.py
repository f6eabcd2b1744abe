"""The Fréchet Inception distance as an experiment's evaluation, where its weights are at hand."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from etils import epath
from jaxtyping import Array

from jaxgen.evaluation.features import Pictures, read_in_batches
from jaxgen.evaluation.frechet import Moments, frechet_distance
from jaxgen.evaluation.inception import FrechetFeatures
from jaxgen.evaluation.inception_weights import SHA256, URL, read_weights
from jaxgen.evaluation.pieces import in_pieces
from jaxgen.experiment import Evaluation, Key, Model, Params

log = logging.getLogger("jaxgen")

# (model, key, how many) -> so many pictures in [-1, 1]; jittable.
Draw = Callable[[Model, Key, int], Array]


def inception_evaluation(
    weights: str,
    real: Pictures,
    draw: Draw,
    samples: int = 50_000,
    every: int | None = None,
    batch_size: int = 64,
) -> Evaluation:
    """`frechet_distance` of `samples` drawn pictures and all of `real`, in Inception's features.

    FID of Heusel et al. 2017: with the published weights, 50,000 samples and a training set of as
    many, what papers report. Real pictures are read once, when the first score is asked for.

    weights: path of the file; with "" there is no score, and a line of the log says where the file
        comes from. A path without a file is warned of at once; the score then raises `UserError`.
    real: all of the real pictures, or items with an "image"; [-1, 1].
    every: also while training, every so many steps.
    batch_size: pictures that the network looks at together, on all devices.
    """
    if weights and not epath.Path(weights).is_file():
        log.warning(f"There is no file {weights}: until it is there, no FID can be had.")

    @functools.cache
    def judge() -> tuple[Params, Moments]:
        params = read_weights(weights)
        return params, moments(FrechetFeatures(), params, real, batch_size)

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        if not weights:
            log.info(
                f"No FID without its network: download {URL} (SHA-256 {SHA256}) and pass the "
                "file's path as --inception."
            )
            return {}
        params, known = judge()
        pictures = in_pieces(functools.partial(draw, model), key, samples)
        drawn = moments(FrechetFeatures(), params, pictures, batch_size)
        return {
            "samples": float(drawn.count),
            "real_items": float(known.count),
            "frechet_distance": frechet_distance(known, drawn),
        }

    return Evaluation("inception", score, every)


def moments(
    network: nn.Module, params: Params, pictures: Pictures, batch_size: int = 64
) -> Moments:
    """Mean and covariance of what a network sees in pictures, while they stream by.

    network: pictures to (logits, features).
    """
    read = read_in_batches(network, params, pictures, batch_size)
    return Moments.of_batches(features for _, features in read)
