"""Every adversarial loss side by side on points of the plane, where modes can be counted.

Papers: Goodfellow et al. 2014 (minimax, non-saturating); Mao et al. 2017 (least squares); Arjovsky
et al. 2017, Gulrajani et al. 2017 (Wasserstein); Lim & Ye 2017 (hinge); Mescheder et al. 2018 (R1);
Huang et al. 2024 (relativistic). The grid and its modes: Lin et al. 2018, Srivastava et al. 2017.
Command: jaxgen train experiments/gaussians_gan.py [--setting ring]
Hardware and time: one CPU core, 4 minutes for all eight.
Expected: 25 of 25 modes by every loss whose discriminator's slope is held (24 in some draws), a
third to a half of the points good; fewer by the others, fewest by plain non-saturating.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from jaxgen.artifacts import Images
from jaxgen.data.points import gaussian_grid, gaussian_ring
from jaxgen.data.sources import Shuffled
from jaxgen.errors import at_least_one
from jaxgen.evaluation.modes import placed_modes
from jaxgen.evaluation.scatter import mode_panels
from jaxgen.experiment import Evaluation, Experiment, Key, Model, Preview, Sampler, Update
from jaxgen.families.gan.contenders import init_each, one_of, updates_within
from jaxgen.families.gan.dense import DenseDiscriminator, DenseGenerator
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.instance_noise import InstanceNoise
from jaxgen.families.gan.notices import generator_stalled, variety_falling
from jaxgen.families.gan.penalties import Penalty, gradient_penalty, r1, r2
from jaxgen.nn import adversary
from jaxgen.nn.fourier_features import fourier_features
from jaxgen.training.optimizers import cosine, weights_within


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    grid: int = 5  # modes along a side of the grid; 0: the ring of 8
    hidden: tuple[int, ...] = (64, 64, 64)  # widths of both networks' hidden layers
    latent: int = 2  # entries of z
    steps: int = 3000  # updates of each network
    batch_size: int = 512  # points an update; a multiple of the devices
    rate: float = 1.5e-3  # Adam's first learning rate, falling to a fiftieth
    noise: float = 1.0  # first deviation of the noise on what the discriminators see; falls to 0.08
    slope: float = 0.05  # first γ/2 of R1 and R2, in the points' units; falls to a tenth
    penalty_weight: float = 0.3  # λ of the gradient penalty
    limit: float = 0.1  # of the clipped critic's weights
    ema: float = 0.99  # decay of the generators' averages, which are drawn from
    samples: int = 2500  # drawn and counted
    contenders: int = 8  # how many take part, the last ones of the list
    seed: int = 0  # initialization, order, points, samples


TINY = Config(grid=0, hidden=(8,), steps=4, batch_size=16, samples=50, contenders=2)
SETTINGS = {"default": Config(), "ring": Config(grid=0), "tiny": TINY}


@dataclass(frozen=True)
class DrawRequest:
    """A panel of points for each contender, and one of the data."""

    count: int = 2500  # how many points in each
    seed: int = 0  # another seed draws other points


def contenders(config: Config) -> dict[str, tuple[adversary.Adversary, tuple[Penalty, ...]]]:
    """What each plays for, and what holds its discriminator's slope."""
    weight, double = (cosine(n * config.slope, n * config.slope / 10, config.steps) for n in (1, 2))
    slope, other = Penalty("r1", r1, weight), Penalty("r2", r2, weight)
    steep = Penalty("r1", r1, double)  # squares grow faster than logarithms
    one = Penalty("gradient_penalty", gradient_penalty, config.penalty_weight)
    return {
        "minimax": (adversary.MINIMAX, ()),
        "non_saturating": (adversary.NON_SATURATING, ()),
        "wasserstein_clipped": (adversary.WASSERSTEIN, ()),
        "least_squares_r1": (adversary.LEAST_SQUARES, (steep,)),
        "hinge_penalty": (adversary.HINGE, (one,)),
        "non_saturating_r1": (adversary.NON_SATURATING, (slope,)),
        "wasserstein_penalty": (adversary.WASSERSTEIN, (one,)),
        "relativistic_r1_r2": (adversary.RELATIVISTIC, (slope, other)),
    }


def build(config: Config) -> Experiment:
    """Eight games of equal networks and batches; what differs is what they play for."""
    mixture = gaussian_grid(config.grid) if config.grid else gaussian_ring()
    counted = partial(placed_modes, centres=mixture.centres, deviation=mixture.deviation)
    data = mixture.points(100_000, config.seed)
    # Normalized over the batch, points spread over many modes early; waves let narrow ones be seen.
    generator = DenseGenerator((2,), config.hidden, False, batch_norm=True, activation=jax.nn.relu)
    discriminator = DenseDiscriminator(config.hidden, see=fourier_features(2, 64, deviation=2.0))
    games = {
        name: Game(
            generator, discriminator, losses, config.latent, penalties=penalties, thing="point",
            augmentation=InstanceNoise(config.noise, 0.08, max(1, round(0.9 * config.steps))),
        )
        for name, (losses, penalties) in list(contenders(config).items())[-config.contenders :]
    }  # fmt: skip

    adam = optax.adam(optax.cosine_decay_schedule(config.rate, config.steps, 0.02), 0.0, 0.99)
    updates: list[Update] = []
    for name, game in games.items():
        judging = weights_within(adam, config.limit) if name == "wasserstein_clipped" else adam
        updates += updates_within(name, game, judging, adam, config.ema)

    def drawn(model: Model, key: Key, count: int, arrays: Any) -> dict[str, jax.Array]:
        at_least_one(count=count)
        latent = jax.random.normal(key, (count, config.latent))
        return {name: game.generate(one_of(model, name), latent) for name, game in games.items()}

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        points = jax.jit(drawn, static_argnums=2)(model, key, config.samples, {})
        found = {name: counted(np.asarray(some)) for name, some in points.items()}
        hits = {f"{name}_modes": float(each.hit) for name, each in found.items()}
        return hits | {f"{name}_good": each.good for name, each in found.items()}

    def picture(points: Mapping[str, np.ndarray]) -> Images:
        real = data[np.arange(2500)]["point"]
        panels = mode_panels({**points, "the_data": real}, mixture.centres, mixture.deviation)
        return Images(panels, columns=3)

    return Experiment(
        init=partial(init_each, games),
        updates=updates,
        data={"train": Shuffled(data, config.batch_size, config.seed)},
        steps=config.steps,
        seed=config.seed,
        network=games,
        samplers={"draw": Sampler(DrawRequest, lambda asked: (asked.count, {}), drawn, picture)},
        evaluations=[Evaluation("points", score, every=max(1, config.steps // 3))],
        previews=[Preview("points", "draw", DrawRequest(), every=config.steps)],
        notices=[generator_stalled(f"{name}_generator") for name in games]
        + [variety_falling(f"points/{name}_modes", len(mixture.centres)) for name in games],
        checkpoint_every=config.steps,
        unit="points",
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
