"""µP: hyperparameters found at a small width that hold at a large one.

The maximal update parametrization (Yang et al. 2022, "Tensor Programs V", table 8): as the width
grows, every layer's vectors and their change in a step stay of one size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxgen.experiment import Path


@dataclass(frozen=True)
class MaximalUpdate:
    """What depends on the width of a transformer that Adam trains.

    deviation: of the kernels inside, those on the residual stream's way in and out alike.
    embedding_deviation: of tokens' and positions' vectors.
    attention_scale: what queries' products with keys are multiplied by.
    logits_scale: what the scores are multiplied by.
    rate: what a leaf's learning rate is multiplied by, for `scaled_rates`.
    """

    deviation: float
    embedding_deviation: float
    attention_scale: float
    logits_scale: float
    rate: Callable[[Path], float]


def maximal_update(
    width: int, base_width: int, *, depth: int, base_depth: int, deviation: float = 0.02
) -> MaximalUpdate:
    """µP for a width whose rates, deviations and scales were found at `base_width`.

    At the base width it is the usual parametrization. All that is wide grows by the same factor,
    the position-wise networks' hidden layers too; layers, vocabulary and context stay.

        up = maximal_update(1024, 128, depth=64, base_depth=64)
        network = Transformer(
            ...,
            attention=partial(SelfAttention, heads=16, scale=up.attention_scale),
            scales=Scales(logits=up.logits_scale),
            initializer=normal(up.deviation),
            output_initializer=normal(up.deviation / math.sqrt(2 * layers)),
            embedding_initializer=normal(up.embedding_deviation),
        )
        optimizer = scaled_rates(adamw(rate), up.rate)

    depth, base_depth: numbers a head, here and at the base. Scores are divided by their growth, not
        its root, since queries and keys come to agree.
    deviation: at the base width.
    """
    growth = width / base_width

    def rate(path: Path) -> float:
        # A kernel sums over the width, and what Adam moves it by agrees with what it sums. Vectors,
        # biases and norms don't sum; the scores do, and are scaled as a whole.
        return 1 / growth if path[-1] == "kernel" and path[0] != "head" else 1.0

    return MaximalUpdate(
        deviation=deviation / growth**0.5,
        embedding_deviation=deviation,
        attention_scale=base_depth**0.5 / depth,
        logits_scale=1 / growth,
        rate=rate,
    )
