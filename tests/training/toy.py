"""A model too small to be one: least squares with noise, so that the loop's promises show.

Command: jaxgen train toy.py
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.artifacts import Text
from jaxgen.data.sources import Arrays, Shuffled
from jaxgen.experiment import (
    Best,
    Context,
    Evaluation,
    Experiment,
    Output,
    Preview,
    Sampler,
    Update,
)


@dataclass(frozen=True)
class Config:
    """The toy's numbers."""

    steps: int = 60  # training steps
    batch_size: int = 16  # rows in a batch
    width: int = 5  # features of a row
    learning_rate: float = 2e-2  # Adam's
    infinite_at: int = -1  # the step whose loss is infinite
    seconds: float = 0.0  # how long a step takes at least
    seed: int = 0  # decides everything


SETTINGS = {"default": Config(), "tiny": Config(steps=4)}


@dataclass(frozen=True)
class Ask:
    """How many numbers to draw."""

    count: int = 3  # how many
    seed: int = 0  # another seed, other numbers


def build(config: Config) -> Experiment:
    """Rows that don't divide into batches; a loss that draws noise."""
    x = np.random.default_rng(0).normal(size=(103, config.width)).astype(np.float32)
    items = Arrays({"x": x, "y": x.sum(1)})

    def init(key, batch):
        kernel = jax.random.normal(key, (batch["x"].shape[1],))
        return {"linear": {"kernel": kernel}}, {"rows_seen": jnp.zeros((), jnp.int32)}

    def loss(params, context: Context) -> Output:
        if config.seconds:
            jax.debug.callback(lambda: time.sleep(config.seconds))
        noise = 0.1 * jax.random.normal(context.key, context.batch["y"].shape)
        error = context.batch["x"] @ params["linear"]["kernel"] - context.batch["y"] + noise
        value = jnp.mean(error**2)
        value = jnp.where(context.step == config.infinite_at - 1, jnp.inf, value)
        seen = context.variables["rows_seen"] + context.batch["y"].shape[0]
        return Output(value, metrics={"noise": noise.mean()}, variables={"rows_seen": seen})

    def score(model, data, key):
        return {"sum": model.params["linear"]["kernel"].sum()}

    sampler = Sampler(
        request=Ask,
        prepare=lambda request: (request.count, {}),
        sample=lambda model, key, count, arrays: (
            jax.random.normal(key, (count,)) + model.params["linear"]["kernel"].sum()
        ),
        render=lambda numbers: Text((str(numbers),)),
    )
    return Experiment(
        init=init,
        updates=[Update("train", loss, optax.adam(config.learning_rate), ema=0.99)],
        data={"train": Shuffled(items, config.batch_size, config.seed)},
        steps=config.steps,
        seed=config.seed,
        samplers={"numbers": sampler},
        evaluations=[Evaluation("weights", score, every=20)],
        previews=[Preview("numbers", "numbers", Ask(), every=20)],
        best=Best("weights/sum", higher_is_better=True),
        log_every=3,
        checkpoint_every=7,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", __file__, *sys.argv[1:]])
