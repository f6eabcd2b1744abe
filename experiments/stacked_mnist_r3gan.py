"""R3GAN on stacked MNIST: of a thousand modes, how many does the generator know?

Paper: Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern GAN Baseline" (arXiv
2501.05441): networks, relativistic loss with R1 and R2 at every step, Adam without momentum, and
cosine schedules of learning rate, b2, γ and the average's half-life. Data: three MNIST digits as
three channels (Metz et al. 2017), in 32×32 pixels. Widths, batch, γ and lengths of the settings are
this file's own.

Command: jaxgen train experiments/stacked_mnist_r3gan.py [--setting gpu]

Hardware and time: one CPU core, 5 minutes; `gpu` has not been run.

Expected on the CPU: 648 modes and a reverse KL of 1.34 (one seed), which blurred spots of colour
are counted as; digits take longer. A trial of the whole chain, not the paper's result.
The paper reports 1,000 modes and a reverse KL of 0.029. The classifier here is another than any
paper's, and 25,600 samples from the very best model would come to 0.02.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxgen.data.datasets import mnist
from jaxgen.data.sources import Kept, Shuffled
from jaxgen.data.stacked import Stacked
from jaxgen.evaluation.features import read
from jaxgen.evaluation.generated import seen_classes
from jaxgen.evaluation.modes import modes
from jaxgen.evaluation.pieces import in_pieces
from jaxgen.evaluation.stacked import stacked_labels
from jaxgen.experiment import Evaluation, Experiment, Items, Key, Model, Preview, Update
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.notices import classes_falling, discriminator_saturated, generator_stalled
from jaxgen.families.gan.penalties import Penalty, r1, r2
from jaxgen.families.gan.r3gan import R3ganDiscriminator, R3ganGenerator
from jaxgen.families.gan.samplers import DrawRequest, draw, game_samplers
from jaxgen.nn.adversary import RELATIVISTIC
from jaxgen.training.optimizers import adam, cosine, half_life

REQUIRES = {"classifier": "mnist_classifier.py"}
FRAME = 2  # black pixels around the digits, for sides of 32


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    widths: tuple[int, ...] = (48, 32, 16)  # channels at each resolution, from 4×4 on
    blocks: int = 1  # residual blocks at each resolution
    expansion: int = 1  # times as many channels within a block
    group_width: int | None = None  # channels of a group there; None: one group, quick on CPUs
    patch: int = 2  # pixels a side that become one place; 1 is the paper's
    latent: int = 64  # numbers of z
    stacks: int = 128_000  # stacks of three digits to train with
    steps: int = 2000  # updates of each network
    batch_size: int = 64  # stacks an update
    learning_rate: float = 2e-4  # Adam's at the start; a quarter of it at the end
    slope_penalty: float = 50.0  # γ of R1 and R2 at the start; a tenth of it at the end
    average: float = 4000.0  # half-life of the generator's average at the end, in stacks
    bfloat16: bool = False  # compute within the blocks at half precision, for accelerators
    samples: int = 25_600  # drawn to count modes
    seed: int = 0  # initialization, stacks, order, latents


SETTINGS = {
    "default": Config(),
    "gpu": Config(widths=(384, 384, 384, 384), blocks=2, expansion=2, group_width=16, patch=1,
                  steps=60_000, batch_size=256, learning_rate=2e-4, slope_penalty=1.0,
                  average=500_000.0, bfloat16=True),
    "tiny": Config(widths=(4,), patch=8, stacks=64, steps=4, batch_size=8, samples=64),
}  # fmt: skip


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """Both networks judged by pairs, real beside made; modes counted channel by channel."""
    digits = mnist("train")
    # For a few stacks, decoding all digits would cost more.
    kept: Items = Kept(digits) if 3 * config.stacks > len(digits) else digits
    stacks = Stacked(kept, config.stacks, config.seed, FRAME)
    blocks = (config.expansion, config.group_width, config.patch)
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    over = partial(cosine, steps=config.steps)
    weight = over(config.slope_penalty / 2, config.slope_penalty / 20)
    game = Game(
        R3ganGenerator(config.widths, config.blocks, 3, 0, *blocks, dtype),
        R3ganDiscriminator(config.widths, config.blocks, 0, 0, *blocks, dtype),
        RELATIVISTIC,
        latent=config.latent,
        penalties=(Penalty("r1", r1, weight), Penalty("r2", r2, weight)),
    )
    watch = max(1, config.steps // 3)
    rate = over(config.learning_rate, config.learning_rate / 4)
    optimizer = adam(rate, b1=0.0, b2=over(0.9, 0.99))
    average = half_life(over(0.0, config.average), config.batch_size)

    judge = partial(read, required["classifier"].network, required["classifier"].params)

    def look(pictures: Any) -> tuple[Any, Any]:
        return stacked_labels(judge, pictures, frame=FRAME), None

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        drawn = in_pieces(partial(draw, game, model), key, config.samples)
        shown = stacked_labels(judge, drawn, frame=FRAME)
        found = modes(stacks.labels(), shown)
        return {
            "samples": float(len(shown)),
            "modes": float(found.hit),
            "reverse_divergence": found.reverse_divergence,
            "divergence": found.divergence,
        }

    return Experiment(
        init=game.init,
        updates=[
            Update("discriminator", game.discriminator_loss, optimizer, moves="discriminator"),
            Update("generator", game.generator_loss, optimizer, moves="generator", ema=average),
        ],
        data={"train": Shuffled(stacks, config.batch_size, config.seed)},
        steps=config.steps,
        seed=config.seed,
        network=game,
        samplers=game_samplers(game, stacks),
        evaluations=[
            Evaluation("classes", seen_classes(look, partial(draw, game), 1000, 1000), watch),
            Evaluation("mnist_classifier", score),
        ],
        notices=[discriminator_saturated(), generator_stalled(), classes_falling(classes=1000)],
        previews=[Preview("stacks", "draw", DrawRequest(), every=watch)],
        log_every=min(50, config.steps),
        checkpoint_every=max(1, config.steps // 5),
        unit="stacks",
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
