"""Variational and importance-weighted autoencoders on binarized MNIST, one stochastic layer.

Papers: Kingma & Welling 2013 (arXiv 1312.6114); Burda, Grosse & Salakhutdinov 2015, "Importance
Weighted Autoencoders" (arXiv 1509.00519): network, optimizer, schedule and evaluation are theirs.
`--doubly-reparameterized` is Tucker et al. 2018, `--flows` Kingma et al. 2016, `--pseudo-inputs`
Tomczak & Welling 2018.

Command: jaxgen train experiments/mnist_vae.py [--setting iwae_5 | iwae_50 | gpu | paper]

Hardware and time: one CPU core, 3 minutes (`iwae_50`: 11 on half a core); `gpu` with
`--importance-samples 1 | 5 | 50` about 3 minutes on one H100.

Expected, nats per digit for 1, 5 and 50 samples: 116, 114, 113 on the CPU; 89.9, 88.6, 87.6 with
`gpu`. Burda et al., table 1, after the `paper` schedule of 3,280 epochs, which has not been run
here: 86.76, 85.54, 84.78.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from jaxgen.data.datasets import mnist
from jaxgen.data.sources import Kept, Shuffled, Subset
from jaxgen.evaluation.features import read
from jaxgen.evaluation.image_scores import image_scores, reference
from jaxgen.evaluation.likelihood import importance_weighted_bound
from jaxgen.evaluation.pieces import in_pieces
from jaxgen.experiment import Evaluation, Experiment, Key, Model, Preview, Update
from jaxgen.families.vae.bernoulli import binarized
from jaxgen.families.vae.binary_autoencoder import BinaryAutoencoder
from jaxgen.families.vae.dense import DenseDecoder, DenseEncoder
from jaxgen.families.vae.inverse_autoregressive import InverseAutoregressiveFlow
from jaxgen.families.vae.objectives import doubly_reparameterized_loss, importance_weighted_loss
from jaxgen.families.vae.samplers import DrawRequest, autoencoder_samplers
from jaxgen.families.vae.vamp_prior import PseudoInputs

REQUIRES = {"classifier": "mnist_classifier.py"}


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    importance_samples: int = 1  # k of the training bound; 1 is the VAE
    doubly_reparameterized: bool = False  # DReG's gradient instead of IWAE's
    latent: int = 50  # entries of z
    hidden: tuple[int, ...] = (200, 200)  # widths of the hidden layers
    flows: int = 0  # inverse autoregressive steps that bend the posterior
    pseudo_inputs: int = 0  # components of a VampPrior; 0: the prior is N(0, 1)
    updates: int = 15_000  # in all; the paper's schedule is stretched over them
    updates_per_step: int = 50  # in one compiled call
    batch_size: int = 20  # digits an update; a multiple of the devices
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
    "tiny": Config(importance_samples=2, latent=4, hidden=(32,), flows=2, pseudo_inputs=3,
                   updates=40, updates_per_step=5, batch_size=16, bound_samples=50,
                   test_digits=80, samples=80),
}  # fmt: skip


def burda_schedule(rate: float, updates: int) -> optax.Schedule:
    """rate · 10^(-i/7) for 3^i parts of the whole, i = 0 .. 7 (Burda et al. 2015, section 5)."""
    ends = [int(end) for end in np.cumsum([3**i for i in range(7)]) * updates / 3280]
    # In a short training several of the ends fall together.
    return optax.piecewise_constant_schedule(
        rate, {end: 10 ** (-ends.count(end) / 7) for end in ends}
    )


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """Bernoulli pixels; trained down the bound of `importance_samples`, scored by a tighter one."""
    train, test = Kept(mnist("train")), Subset(Kept(mnist("test")), np.arange(config.test_digits))
    # The decoder begins with each pixel's mean, over so many digits that the rest adds little.
    grey = np.clip((mnist("train")[np.arange(1000)]["image"].mean(0) + 1) / 2, 1e-3, 1 - 1e-3)
    network = BinaryAutoencoder(
        config.latent,
        DenseEncoder(config.latent, config.hidden),
        DenseDecoder((28, 28, 1), config.hidden, bias=np.log(grey / (1 - grey))),
        InverseAutoregressiveFlow(config.flows, config.hidden) if config.flows else None,
        PseudoInputs(config.pseudo_inputs, (28, 28, 1), -0.7) if config.pseudo_inputs else None,
    )
    objective = (
        doubly_reparameterized_loss if config.doubly_reparameterized else importance_weighted_loss
    )
    loss = objective(
        network.model, lambda batch, key: binarized(key, batch["image"]), config.importance_samples
    )

    def bound(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        # The same black and white test digits for every seed and setting.
        digits = binarized(jax.random.key(0), data["test"][np.arange(config.test_digits)]["image"])
        found = importance_weighted_bound(
            network.model.log_weights, model.params, key, np.asarray(digits), config.bound_samples
        )
        return {"nats": -float(found.mean())}

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        judge = partial(read, required["classifier"].network, required["classifier"].params)
        drawn = in_pieces(partial(network.draw, model.params), key, config.samples)
        return image_scores(judge, reference(judge, data["test"]), drawn)

    schedule = burda_schedule(config.learning_rate, config.updates)
    repeats = config.updates_per_step
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["image"]), {}),
        updates=[Update("autoencoder", loss, optax.adam(schedule, eps=1e-4), repeats=repeats)],
        data={"train": Shuffled(train, config.batch_size, config.seed), "test": test},
        steps=config.updates // repeats,
        seed=config.seed,
        network=network,
        samplers=autoencoder_samplers(
            lambda model, *how: network.draw(model.params, *how),
            lambda model, *given: network.reconstruct(model.params, *given),
            lambda model, pictures: network.encode(model.params, pictures),
            lambda model, latent: network.decode(model.params, latent),
            test,
            classes=10,
        ),
        evaluations=[Evaluation("bound", bound), Evaluation("mnist_classifier", score)],
        previews=[Preview("prior", "draw", DrawRequest(), every=max(1, config.updates // repeats))],
        checkpoint_every=max(1, config.updates // repeats // 10),
        unit="digits",
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
