"""Least squares in place of cross entropy on MNIST.

Paper: Mao et al. 2017, "Least Squares Generative Adversarial Networks" (arXiv 1611.04076), equation
9. Networks and Adam are DCGAN's; on a CPU the discriminator is held by R1 (Mescheder et al. 2018)
instead of batch normalization, as in mnist_dcgan.py.

Command: jaxgen train experiments/mnist_lsgan.py [--setting gpu]

Hardware and time: one CPU core, 4 minutes.

Expected: a Fréchet distance of 14.9 in the MNIST classifier's features over 10,000 digits, all ten
classes (one seed). `gpu` has not been run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optax
from flax.linen.initializers import he_normal

from jaxgen.data.datasets import mnist
from jaxgen.data.sources import Kept, Shuffled, Subset
from jaxgen.evaluation.features import read
from jaxgen.evaluation.generated import generated_scores, seen_classes
from jaxgen.experiment import Evaluation, Experiment, Preview, Update
from jaxgen.families.gan.dcgan import DCGANDiscriminator, DCGANGenerator, by_batch, unnormalized
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.notices import classes_falling, generator_stalled
from jaxgen.families.gan.penalties import Penalty, r1
from jaxgen.families.gan.samplers import DrawRequest, draw, game_samplers
from jaxgen.nn.adversary import LEAST_SQUARES

REQUIRES = {"classifier": "mnist_classifier.py"}


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    latent: int = 64  # numbers of a latent
    widths: tuple[int, ...] = (16, 64)  # channels at 14×14 and 7×7, of both networks
    momentum: float = 0.99  # of the generator's running statistics
    r1: float = 0.1  # weight of the squared slope at real digits (γ/2); 0: none, as published
    normalized: bool = False  # batch normalization in the discriminator too, as published
    steps: int = 10_000  # an update of each network in each
    batch_size: int = 32  # digits an update; a multiple of the devices
    generator_rate: float = 1e-3  # Adam's learning rates; they fall to 0 along a cosine
    discriminator_rate: float = 1e-3
    ema: float = 0.998  # decay of the generator's moving average
    watch_every: int = 500  # steps from one look at the classes of 500 samples to the next
    samples: int = 10_000  # drawn and scored, against as many test digits
    seed: int = 0  # initialization, order, latents


SETTINGS = {
    "default": Config(),
    "tiny": Config(latent=8, widths=(4,), steps=4, batch_size=8, watch_every=4, samples=80),
    # The published widths and rate.
    "gpu": Config(latent=100, widths=(64, 128), normalized=True, r1=0.0, steps=30_000,
                  batch_size=128, generator_rate=2e-4, discriminator_rate=2e-4, ema=0.999,
                  watch_every=2000),
}  # fmt: skip


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """Two updates a step down the least squares; R1 or a norm holds the discriminator."""
    judge = DCGANDiscriminator(config.widths, unnormalized, he_normal())
    if config.normalized:
        judge = DCGANDiscriminator(config.widths, by_batch())
    game = Game(
        DCGANGenerator((28, 28, 1), config.widths[::-1], by_batch(config.momentum)),
        judge,
        LEAST_SQUARES,
        config.latent,
        penalties=(Penalty("r1", r1, config.r1),) if config.r1 else (),
    )
    to_judge, to_make = (
        optax.adam(optax.cosine_decay_schedule(rate, config.steps), b1=0.5)
        for rate in (config.discriminator_rate, config.generator_rate)
    )
    train, test = Kept(mnist("train")), Subset(Kept(mnist("test")), np.arange(config.samples))
    look = partial(read, required["classifier"].network, required["classifier"].params)
    drawn = partial(draw, game)
    return Experiment(
        init=game.init,
        updates=[
            Update("discriminator", game.discriminator_loss, to_judge, moves="discriminator"),
            Update("generator", game.generator_loss, to_make, moves="generator", ema=config.ema),
        ],
        data={"train": Shuffled(train, config.batch_size, config.seed), "test": test},
        steps=config.steps,
        seed=config.seed,
        network=game,
        samplers=game_samplers(game, test),
        evaluations=[
            Evaluation("classes", seen_classes(look, drawn, 10), every=config.watch_every),
            Evaluation("mnist_classifier", generated_scores(look, drawn, config.samples)),
        ],
        previews=[Preview("draw", "draw", DrawRequest(), every=5 * config.watch_every)],
        notices=[generator_stalled(), classes_falling()],
        checkpoint_every=max(1, config.steps // 4),
        unit="digits",
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
