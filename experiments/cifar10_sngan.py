"""SNGAN on CIFAR-10: residual networks, hinge loss, the discriminator's kernels of norm 1.

Papers: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks" (arXiv
1802.05957), in the setting of torch-mimicry (Lee & Town 2020, arXiv 2005.02494). `--conditional` is
Miyato & Koyama 2018 (arXiv 1802.05637): projection, and batch normalization by class.

Command: jaxgen train experiments/cifar10_sngan.py --inception pt_inception-2015-12-05-6726825d.pth
(`jaxgen/evaluation/inception_weights.py` says where that file is from; without it there is no FID).

Hardware and time: not run yet. 3·10^17 operations, so 2 hours on one H100 at 4·10^13 a second: an
estimate. `--bfloat16` computes the convolutions in half precision.

Expected, by torch-mimicry's table: FID 16.77 ± 0.04 over 50,000 samples and the 50,000 pictures of
the training set; conditional 10.84 ± 0.03. Both of its rows are of 100,000 steps.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.data.datasets import cifar10, enlarged_digits
from jaxgen.data.sources import Kept, Shuffled
from jaxgen.evaluation.inception_scores import inception_evaluation
from jaxgen.evaluation.pieces import in_pieces
from jaxgen.evaluation.sliced_wasserstein import sliced_wasserstein_distance
from jaxgen.evaluation.spread import relative_spread
from jaxgen.experiment import Evaluation, Experiment, Key, Model, Preview, Update
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.heads import LogitHead, ProjectionHead
from jaxgen.families.gan.notices import generator_stalled, variety_falling
from jaxgen.families.gan.samplers import DrawRequest, draw, game_samplers
from jaxgen.families.gan.sngan import SNGANDiscriminator, SNGANGenerator
from jaxgen.nn.adversary import HINGE


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    stand_in: bool = False  # enlarged digits in the place of CIFAR-10, for trials without it
    conditional: bool = False  # the label goes to both networks
    latent: int = 128  # entries of z
    start: int = 4  # pixels wide and high of the generator's smallest picture
    generator_widths: tuple[int, ...] = (
        256,
        256,
        256,
        256,
    )  # channels there and after doublings
    discriminator_widths: tuple[int, ...] = (128, 128, 128, 128)  # channels of each block
    rectified_shortcuts: bool = True  # torch-mimicry's; the paper's blocks have False
    bfloat16: bool = False  # convolutions in half precision
    steps: int = 100_000  # updates of the generator
    discriminator_updates: int = 5  # for each of those, on fresh pictures
    batch_size: int = 64  # pictures an update; a multiple of the devices
    learning_rate: float = 2e-4  # Adam's first, of both networks; it falls to 0 in a straight line
    inception: str = ""  # path of the FID's weights
    samples: int = 50_000  # drawn for the FID
    pixel_samples: int = 10_000  # drawn for the distance of coarse pixels to as many real
    seed: int = 0  # initialization, order, latents, samples


SETTINGS = {
    "default": Config(),
    "bfloat16": Config(bfloat16=True),
    "conditional": Config(conditional=True),
    "tiny": Config(stand_in=True, conditional=True, latent=8, start=16, generator_widths=(4, 4),
                   discriminator_widths=(4,), steps=4, discriminator_updates=2, batch_size=8,
                   samples=16, pixel_samples=80),
}  # fmt: skip


def build(config: Config) -> Experiment:
    """Two updates; the FID against the training set where Inception's weights are at hand."""
    pictures = enlarged_digits if config.stand_in else cifar10
    train, test = Kept(pictures("train")), Kept(pictures("test"))
    classes = 10 if config.conditional else 0
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    game = Game(
        SNGANGenerator(config.generator_widths, config.start, classes=classes, dtype=dtype),
        SNGANDiscriminator(
            ProjectionHead(classes) if classes else LogitHead(),
            config.discriminator_widths,
            rectified_shortcuts=config.rectified_shortcuts,
            dtype=dtype,
        ),
        HINGE,
        config.latent,
        classes,
    )

    def update(name: str, loss: Any, repeats: int) -> Update:
        rate = optax.linear_schedule(config.learning_rate, 0.0, config.steps * repeats)
        return Update(name, loss, optax.adam(rate, b1=0.0, b2=0.9), name, repeats)

    def pixels(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        count = min(config.pixel_samples, len(data["test"]))
        real = coarse(data["test"][np.arange(count)]["image"])
        drawn = np.concatenate(
            [coarse(some) for some in in_pieces(partial(draw, game, model), key, count)]
        )
        return {
            "samples": float(count),
            "sliced_wasserstein_distance": sliced_wasserstein_distance(real, drawn),
            "spread": relative_spread(real, drawn),
        }

    return Experiment(
        init=game.init,
        updates=[
            update("discriminator", game.discriminator_loss, config.discriminator_updates),
            update("generator", game.generator_loss, 1),
        ],
        data={"train": Shuffled(train, config.batch_size, config.seed), "test": test},
        steps=config.steps,
        seed=config.seed,
        network=game,
        samplers=game_samplers(game, test),
        evaluations=[
            Evaluation("coarse_pixels", pixels, every=5_000),
            inception_evaluation(config.inception, train, partial(draw, game), config.samples),
        ],
        previews=[Preview("grid", "draw", DrawRequest(), every=1_000)],
        notices=[generator_stalled(), variety_falling("coarse_pixels/spread", share=0.5)],
        checkpoint_every=2_000,
        unit="pictures",
    )


def coarse(pictures: np.ndarray) -> np.ndarray:
    """The means of 8×8 squares of pixels, (pictures, 4·4·3)."""
    return pictures.reshape(-1, 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(pictures), -1)


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
