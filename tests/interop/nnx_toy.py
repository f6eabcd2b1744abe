"""A classifier of points written in Flax NNX: batch statistics, dropout, a list of layers.

Command: jaxgen train nnx_toy.py
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import optax
from flax import nnx

from jaxgen.data.sources import Arrays, Shuffled
from jaxgen.experiment import Context, Evaluation, Experiment, Output, Update
from jaxgen.interop.nnx import from_nnx


class Classifier(nnx.Module):
    """Two layers of 16 with batch norm and dropout."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(2, 16, rngs=rngs), nnx.Linear(16, 16, rngs=rngs)])
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        """Logits."""
        x = nnx.relu(self.norm(self.layers[0](x)))
        return self.out(self.dropout(nnx.relu(self.layers[1](x))))


@dataclass(frozen=True)
class Config:
    """The toy's numbers."""

    steps: int = 40  # training steps
    seed: int = 0  # decides everything


SETTINGS = {"default": Config()}


def build(config: Config) -> Experiment:
    """Which of two rings is a point on?"""
    numbers = np.random.default_rng(0)
    label = numbers.integers(2, size=256).astype(np.int32)
    angle = numbers.uniform(0, 2 * np.pi, size=256)
    radius = 1.0 + label + 0.1 * numbers.normal(size=256)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32)
    network = from_nnx(Classifier(nnx.Rngs(config.seed)))

    def loss(params, context: Context) -> Output:
        logits, variables = network.apply(
            params, context.variables, context.batch["x"], key=context.key, train=True
        )
        each = optax.softmax_cross_entropy_with_integer_labels(logits, context.batch["label"])
        return Output(each.mean(), variables=variables)

    def score(model, data, key):
        logits, _ = network.apply(model.params, model.variables, x)
        return {"accuracy": (logits.argmax(-1) == label).mean()}

    return Experiment(
        init=network.init,
        updates=[Update("classifier", loss, optax.adam(1e-2))],
        data={"train": Shuffled(Arrays({"x": x, "label": label}), 64, config.seed)},
        steps=config.steps,
        seed=config.seed,
        network=network,
        evaluations=[Evaluation("train", score)],
        log_every=5,
        checkpoint_every=20,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", __file__, *sys.argv[1:]])
