"""A hierarchical VAE on MNIST: groups of latents at 7×7 and at 1×1.

Papers: Child 2020, "Very Deep VAEs" (arXiv 2011.10650); Vahdat & Kautz 2020, "NVAE" (2007.03898),
for the residual posterior; pixels of 256 levels by Salimans et al. 2017, "PixelCNN++".

Command: jaxgen train experiments/mnist_hierarchical_vae.py [--setting levels | gpu | nvae]

Hardware and time: one CPU core, made for 8 minutes; timed beside other work only.

Expected: an ELBO of -92.9 nats a binarized digit, Fréchet distance 13.4 (NVAE: -78.01, for "nvae");
"levels", all 256 levels of a pixel: 759 nats. "gpu" and "nvae" have not been measured.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.datasets import mnist
from jaxgen.data.sources import Kept, Shuffled, Subset
from jaxgen.evaluation.features import read
from jaxgen.evaluation.image_scores import image_scores, reference
from jaxgen.evaluation.likelihood import importance_weighted_bound
from jaxgen.evaluation.pieces import in_pieces
from jaxgen.experiment import Evaluation, Experiment, Key, Model, Preview, Update
from jaxgen.families.vae import hierarchical_objective as objective
from jaxgen.families.vae.bernoulli import binarized
from jaxgen.families.vae.hierarchical import HierarchicalVAE, check_levels
from jaxgen.families.vae.hierarchical_samplers import levels_sampler
from jaxgen.families.vae.logistic_mixture import parameter_count
from jaxgen.families.vae.objectives import warm_up
from jaxgen.families.vae.samplers import DrawRequest, draw_sampler, reconstruction_sampler
from jaxgen.training.optimizers import adamw, warmup_cosine

REQUIRES = {"classifier": "mnist_classifier.py"}


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    binary: bool = True  # black and white digits, binarized anew at every sight; off: 256 levels
    sizes: tuple[int, ...] = (7, 1)  # of the levels, the finest first; times patch, the digit's
    widths: tuple[int, ...] = (64, 128)  # channels at each level
    groups: tuple[int, ...] = (2, 3)  # of latents at each level
    blocks: int = 1  # residual blocks of the encoder at each level
    patch: int = 4  # pixels a side that are one place of the finest level
    latent: int = 16  # channels of a group
    mixtures: int = 5  # logistics a pixel, of digits that aren't binary
    free_nats: float = 2.0  # that each group may tell at no cost
    beta_warmup: int = 300  # steps until the divergences count in full
    steps: int = 2500  # training steps
    batch_size: int = 32  # digits a step
    learning_rate: float = 2e-3  # Adam's highest
    ema: float = 0.998  # decay of the parameters' moving average
    samples: int = 10_000  # drawn and scored, against as many test digits
    bound_samples: int = 0  # of the importance-weighted bound, if any; costs so many passes
    accelerator: bool = False  # bfloat16, and groups as a loop
    seed: int = 0  # decides everything


GPU = Config(
    binary=False, sizes=(28, 14, 7, 1), widths=(64, 128, 128, 128), groups=(2, 6, 6, 2), blocks=3,
    patch=1, latent=16, mixtures=10, beta_warmup=5000, steps=50_000, batch_size=256,
    learning_rate=1e-3, ema=0.9999, free_nats=0.0, bound_samples=100, accelerator=True,
)  # fmt: skip
SETTINGS = {
    "default": Config(), "gpu": GPU,
    "levels": Config(binary=False, free_nats=8.0, steps=1000, batch_size=64),
    # As NVAE's published command: 20 channels a group, batches of 400 in all, 400 epochs.
    "nvae": replace(GPU, binary=True, groups=(0, 10, 5, 0), latent=20, steps=60_000,
                    batch_size=400, beta_warmup=18_000, bound_samples=1000),
    "tiny": Config(binary=False, widths=(8, 8), groups=(1, 1), latent=2, mixtures=2, steps=6,
                   beta_warmup=4, batch_size=16, samples=80, bound_samples=2),
}  # fmt: skip


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """The bound on MNIST's training digits; scored on its test digits and by the classifier."""
    check_levels(config.sizes, config.widths, config.groups)
    train, test = Kept(mnist("train")), Subset(Kept(mnist("test")), np.arange(config.samples))
    network: Any = HierarchicalVAE(
        outputs=1 if config.binary else parameter_count(config.mixtures, channels=1),
        sizes=config.sizes, widths=config.widths, groups=config.groups, blocks=config.blocks,
        patch=config.patch, latent=config.latent, unroll=not config.accelerator,
        dtype=jnp.bfloat16 if config.accelerator else jnp.float32,
    )  # fmt: skip
    # Samples show what is expected of each pixel: drawn on their own they would only add grain.
    log_likelihood, picture = objective.mixture_likelihood, objective.mixture_mean
    if config.binary:
        log_likelihood, picture = objective.bernoulli_likelihood, objective.bernoulli_mean

    def observe(batch: Any, key: Key) -> Any:
        return 2 * binarized(key, batch["image"]) - 1 if config.binary else batch["image"]

    def draw(model: Model, key: Key, count: int, temperature: Any) -> Any:
        given = ({"params": model.params}, key, count, jnp.full(len(config.sizes), temperature))
        return picture(network.apply(*given, method=HierarchicalVAE.draw).outputs)

    def partly(model: Model, key: Key, seen: Any, groups: int, temperature: Any) -> Any:
        seen = observe({"image": seen}, jax.random.key(0))
        given = ({"params": model.params}, seen, key, groups, temperature)
        return picture(network.apply(*given, method=HierarchicalVAE.partly).outputs)

    def bound(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        digits = np.asarray(observe(data["test"][np.arange(config.samples)], jax.random.key(0)))
        terms = objective.whole_bound(network, log_likelihood, model.params, key, digits)
        scores = objective.bound_metrics(terms, config.sizes, config.groups, digits[0].size)
        if config.bound_samples:
            weights, samples = objective.log_weights(network, log_likelihood), config.bound_samples
            tighter = importance_weighted_bound(weights, model.params, key, digits, samples, 1)
            scores["importance_weighted_nats"] = -tighter.mean()
        return {name: float(value) for name, value in scores.items()}

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        judge = partial(read, required["classifier"].network, required["classifier"].params)
        drawn = in_pieces(lambda key, count: draw(model, key, count, 1.0), key, config.samples)
        return image_scores(judge, reference(judge, data["test"]), drawn)

    beta, free = warm_up(config.beta_warmup), config.free_nats
    loss = objective.hierarchical_loss(network, log_likelihood, observe, beta=beta, free_nats=free)
    rate = warmup_cosine(config.learning_rate, config.steps, config.steps // 20)
    kept = tuple(np.cumsum([count for count in config.groups[::-1] if count]).tolist())
    whole = partial(partly, groups=kept[-1], temperature=1.0)
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["image"], key)["params"], {}),
        updates=[Update("bound", loss, adamw(rate, b2=0.99, clip=200.0), ema=config.ema)],
        data={"train": Shuffled(train, config.batch_size, config.seed), "test": test},
        steps=config.steps, seed=config.seed, network=network, unit="digits",
        samplers={
            "draw": draw_sampler(draw),
            "reconstruct": reconstruction_sampler(whole, test),
            "levels": levels_sampler(partly, test, (0, *kept)),
        },
        evaluations=[Evaluation("bound", bound), Evaluation("mnist_classifier", score)],
        previews=[Preview("prior", "draw", DrawRequest(), every=500)],
    )  # fmt: skip


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
