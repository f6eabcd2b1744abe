"""R3GAN on CIFAR-10: residual networks without tricks, a relativistic loss with R1 and R2.

Paper: Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern GAN Baseline" (arXiv
2501.05441). The authors' settings for CIFAR-10, all over the first 20 million pictures by half a
cosine: learning rate 2e-4 to 5e-5, b2 0.9 to 0.99, γ 0.05 to 0.005, augmentation (ADA's pipeline
with cutout) probability 0 to 0.55, half-life of the generator's average 0 to 5 million pictures.
Conditional, mirrored, 512 pictures an update. Settled here: the slopes are held at the augmented
pictures, where theirs go through the augmentation; half precision is bfloat16 and on at 4×4 too;
10^8 pictures in all, five times the schedules.

Command: jaxgen train experiments/cifar10_r3gan.py --inception pt_inception-2015-12-05-6726825d.pth
(`jaxgen/evaluation/inception_weights.py` says where that file is from; without it there is no FID).

Hardware and time: not run yet. 4·10^19 operations, so 100 hours on one H100 at 10^14 a second, 20
of them for the schedules: an estimate.

Expected, by the paper: FID 1.96, conditional, over 50,000 samples and the training set.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.data.datasets import cifar10, enlarged_digits
from jaxgen.data.images import RandomFlip
from jaxgen.data.sources import Kept, Shuffled
from jaxgen.evaluation.generated import seen_spread
from jaxgen.evaluation.inception_scores import inception_evaluation
from jaxgen.experiment import Evaluation, Experiment, Key, Preview, Update
from jaxgen.families.gan.augmentation import ScheduledAugmentation
from jaxgen.families.gan.augmentation_pipeline import Pictures, Pipeline
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.notices import (
    discriminator_saturated,
    generator_stalled,
    variety_falling,
)
from jaxgen.families.gan.parts import Scalar
from jaxgen.families.gan.penalties import Penalty, r1, r2
from jaxgen.families.gan.r3gan import R3ganDiscriminator, R3ganGenerator
from jaxgen.families.gan.samplers import DrawRequest, draw, game_samplers
from jaxgen.nn.adversary import RELATIVISTIC
from jaxgen.training.optimizers import adam, cosine, half_life


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    stand_in: bool = False  # enlarged digits in the place of CIFAR-10, for trials without it
    widths: tuple[int, ...] = (768, 768, 768, 768)  # channels on 4×4, 8×8, 16×16, 32×32
    blocks: int = 2  # residual blocks at each resolution
    group_width: int | None = 16  # channels of a group within a block; None: one group
    patch: int = 1  # pixels a side that become one place; more for trials on CPUs
    latent: int = 64  # entries of z, and as many of the label beside them
    pictures: int = 100_000_000  # seen in all
    changing: int = 20_000_000  # of those, while the schedules go on
    batch_size: int = 512  # pictures an update of either network
    learning_rate: float = 2e-4  # Adam's at the start; a quarter of it at the end
    slope_penalty: float = 0.05  # γ of R1 and R2 at the start; a tenth of it at the end
    augmented: float = 0.55  # probability of each change of a picture at the end; 0: none
    average: float = 5_000_000.0  # half-life of the generator's average at the end, in pictures
    bfloat16: bool = True  # blocks in half precision
    inception: str = ""  # path of the FID's weights
    samples: int = 50_000  # drawn for the FID
    seed: int = 0  # initialization, order, latents, augmentation, samples


SETTINGS = {
    "default": Config(),
    "tiny": Config(stand_in=True, widths=(4,), blocks=1, group_width=None, patch=8, latent=8,
                   pictures=32, changing=16, batch_size=8, augmented=0.0, samples=16),
}  # fmt: skip


def build(config: Config) -> Experiment:
    """Two updates of equal length; the FID where Inception's weights are at hand."""
    pictures = enlarged_digits if config.stand_in else cifar10
    train, test = Kept(pictures("train")), Kept(pictures("test"))
    steps = config.pictures // config.batch_size
    shape, width = (config.widths, config.blocks), config.group_width
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    over = partial(cosine, steps=max(1, config.changing // config.batch_size))
    augmentation = ScheduledAugmentation(cosine(0.0, config.augmented, config.changing), changed)
    weight = over(config.slope_penalty / 2, config.slope_penalty / 20)
    game = Game(
        R3ganGenerator(*shape, classes=10, group_width=width, patch=config.patch, dtype=dtype),
        R3ganDiscriminator(
            *shape,
            classes=10,
            projection=config.widths[-1],
            group_width=width,
            patch=config.patch,
            dtype=dtype,
        ),
        RELATIVISTIC,
        config.latent,
        classes=10,
        penalties=(Penalty("r1", r1, weight), Penalty("r2", r2, weight)),
        augmentation=augmentation if config.augmented else None,
    )
    rate = over(config.learning_rate, config.learning_rate / 4)
    optimizer = adam(rate, b1=0.0, b2=over(0.9, 0.99))
    average = half_life(over(0.0, config.average), config.batch_size)
    watch, seen = max(1, steps // 100), min(500, config.samples)
    return Experiment(
        init=game.init,
        updates=[
            Update("discriminator", game.discriminator_loss, optimizer, moves="discriminator"),
            Update("generator", game.generator_loss, optimizer, moves="generator", ema=average),
        ],
        data={"train": Shuffled(train, config.batch_size, config.seed, RandomFlip()), "test": test},
        steps=steps,
        seed=config.seed,
        network=game,
        samplers=game_samplers(game, test),
        evaluations=[
            Evaluation("variety", seen_spread(partial(draw, game), seen), every=watch),
            inception_evaluation(config.inception, train, partial(draw, game), config.samples),
        ],
        previews=[Preview("grid", "draw", DrawRequest(), every=watch)],
        notices=[
            discriminator_saturated(),
            generator_stalled(),
            variety_falling("variety/spread", share=0.5),
        ],
        log_every=min(50, steps),
        checkpoint_every=max(1, steps // 50),
        unit="pictures",
    )


def changed(key: Key, pictures: Pictures, probability: Scalar) -> Pictures:
    """The authors' pipeline: moved and cut into with the probability, coloured with half of it."""
    place, colours, hole = jax.random.split(key, 3)
    pictures = Pipeline(colour=False)(place, pictures, probability)
    pictures = Pipeline(blits=False, geometry=False)(colours, pictures, probability / 2)
    return Pipeline(False, False, False, cutout=0.5)(hole, pictures, probability)


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
