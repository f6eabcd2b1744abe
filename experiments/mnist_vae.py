"""Variational and importance-weighted autoencoders on binarized MNIST, one stochastic layer.

Papers: Kingma & Welling 2013 (arXiv 1312.6114); Burda, Grosse & Salakhutdinov 2015, "Importance
Weighted Autoencoders" (arXiv 1509.00519): network, optimizer, schedule and evaluation are theirs;
Tucker et al. 2018 for `--doubly-reparameterized`.

Command: jaxgen train experiments/mnist_vae.py [--setting iwae_5 | iwae_50 | gpu | paper]

Hardware and time: TODO

Expected: TODO. Burda et al., table 1, after 3,280 epochs (`paper`): 86.76 (VAE), 85.54 (k = 5) and
84.78 nats (k = 50).
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
import optax

from jaxgen.data.datasets import mnist
from jaxgen.data.sources import Kept, Shuffled
from jaxgen.evaluation.features import read
from jaxgen.evaluation.image_scores import image_scores, reference
from jaxgen.evaluation.likelihood import importance_weighted_bound
from jaxgen.evaluation.pieces import in_pieces
from jaxgen.experiment import Batch, Evaluation, Experiment, Key, Model, Params, Preview, Update
from jaxgen.families.vae import samplers
from jaxgen.families.vae.bernoulli import Bernoulli, binarized
from jaxgen.families.vae.dense import DenseDecoder, DenseEncoder
from jaxgen.families.vae.gaussian import standard_normal
from jaxgen.families.vae.objectives import (
    LatentVariableModel,
    doubly_reparameterized_loss,
    importance_weighted_loss,
    over_entries,
)

REQUIRES = {"classifier": "mnist_classifier.py"}


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    importance_samples: int = 1  # k of the training bound; 1 is the VAE
    doubly_reparameterized: bool = False  # DReG's gradient instead of IWAE's
    latent: int = 50  # entries of z
    hidden: tuple[int, ...] = (200, 200)  # widths of the hidden layers
    updates: int = 9000  # in all; the paper's schedule is stretched over them
    updates_per_step: int = 50  # in one compiled call
    batch_size: int = 20  # digits an update
    learning_rate: float = 1e-3  # the schedule's highest
    bound_samples: int = 500  # k of the bound on the test digits
    test_digits: int = 10_000  # how many of them, for the bound and the other scores
    samples: int = 10_000  # drawn and scored against them
    seed: int = 0  # initialization, order, binarization, samples


GPU = Config(updates=240_000, updates_per_step=200, batch_size=100, bound_samples=5000)
SETTINGS = {
    "default": Config(),
    "iwae_5": Config(importance_samples=5),
    "iwae_50": Config(importance_samples=50),
    "gpu": GPU,
    "paper": replace(GPU, updates=3280 * 3000, updates_per_step=1000, batch_size=20),
    "tiny": Config(latent=4, hidden=(32,), updates=40, updates_per_step=5, bound_samples=50,
                   test_digits=80, samples=80),
}  # fmt: skip


def burda_schedule(rate: float, updates: int) -> optax.Schedule:
    """rate · 10^(-i/7) for 3^i parts of the whole, i = 0 .. 7 (Burda et al. 2015, section 5)."""
    ends = np.cumsum([3**i for i in range(7)]) / 3280
    return optax.piecewise_constant_schedule(
        rate, {int(end * updates): 10 ** (-1 / 7) for end in ends}
    )


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """One Gaussian latent, Bernoulli pixels; trained down the bound of `importance_samples`."""
    train, test = Kept(mnist("train")), Kept(mnist("test"))
    # The decoder begins with each pixel's mean, over so many digits that the rest adds little.
    grey = np.clip((mnist("train")[np.arange(1000)]["image"].mean(0) + 1) / 2, 1e-3, 1 - 1e-3)
    encoder = DenseEncoder(config.latent, config.hidden)
    decoder = DenseDecoder((28, 28, 1), config.hidden, bias=np.log(grey / (1 - grey)))

    def log_likelihood(params: Params, observed: Any, latent: Any) -> Any:
        pixels = Bernoulli(decoder.apply({"params": params["decoder"]}, latent))
        return over_entries(pixels.log_probability(observed))

    model = LatentVariableModel(
        infer=lambda params, observed: encoder.apply({"params": params["encoder"]}, observed),
        log_prior=lambda params, z: over_entries(standard_normal(z.shape).log_probability(z)),
        log_likelihood=log_likelihood,
    )
    objective = (
        doubly_reparameterized_loss if config.doubly_reparameterized else importance_weighted_loss
    )
    loss = objective(
        model, lambda batch, key: binarized(key, batch["image"]), config.importance_samples
    )

    def init(key: Key, batch: Batch) -> tuple[Params, Any]:
        keys = jax.random.split(key)
        return {
            "encoder": encoder.init(keys[0], batch["image"])["params"],
            "decoder": decoder.init(keys[1], jnp.zeros((1, config.latent)))["params"],
        }, {}

    def decode(model: Model, latent: Any) -> Any:
        return 2 * Bernoulli(decoder.apply({"params": model.params["decoder"]}, latent)).mean() - 1

    def encode(model: Model, pictures: Any) -> Any:
        return encoder.apply({"params": model.params["encoder"]}, (pictures + 1) / 2).mean

    def draw(model: Model, key: Key, count: int, temperature: Any) -> Any:
        return decode(model, temperature * jax.random.normal(key, (count, config.latent)))

    def reconstruct(model: Model, key: Key, pictures: Any) -> Any:
        return decode(model, encode(model, pictures))

    def bound(trained: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        # The same black and white test digits for every seed and setting.
        digits = data["test"][np.arange(config.test_digits)]["image"]
        binary = np.asarray(binarized(jax.random.key(0), digits))
        found = importance_weighted_bound(
            model.log_weights, trained.params, key, binary, config.bound_samples
        )
        return {"nats": -float(found.mean())}

    classifier = required["classifier"]

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        judge = partial(read, classifier.network, classifier.params)
        drawn = in_pieces(lambda key, count: draw(model, key, count, 1.0), key, config.samples)
        real = data["test"][np.arange(config.test_digits)]["image"]
        return image_scores(judge, reference(judge, real), drawn)

    ways = (encode, decode, test)
    return Experiment(
        init=init,
        updates=[
            Update(
                "autoencoder",
                loss,
                optax.adam(burda_schedule(config.learning_rate, config.updates), eps=1e-4),
                repeats=config.updates_per_step,
            )
        ],
        data={"train": Shuffled(train, config.batch_size, config.seed), "test": test},
        steps=config.updates // config.updates_per_step,
        seed=config.seed,
        network=(encoder, decoder),
        samplers={
            "draw": samplers.draw_sampler(draw),
            "reconstruct": samplers.reconstruction_sampler(reconstruct, test),
            "walk": samplers.walk_sampler(*ways),
            "traverse": samplers.traversal_sampler(*ways),
            "attribute": samplers.attribute_sampler(*ways, classes=10),
        },
        evaluations=[Evaluation("bound", bound), Evaluation("mnist_classifier", score)],
        previews=[Preview("prior", "draw", samplers.DrawRequest(), every=10**9)],
        unit="digits",
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
