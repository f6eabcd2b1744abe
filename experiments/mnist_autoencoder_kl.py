"""AutoencoderKL on MNIST: latent diffusion's first stage, 28×28 digits to 7×7 latents and back.

Papers: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv
2112.10752); Esser et al. 2021, "Taming Transformers" (arXiv 2012.09841), whose adaptive weight this
is. The perceptual term sees with the MNIST classifier in place of LPIPS's network.

Command: jaxgen train experiments/mnist_autoencoder_kl.py

Hardware and time: one CPU core, 4 minutes.

Expected, over the 10,000 test digits: mean squared error 0.008 (pixels in [-1, 1]), 27.6 dB,
reconstruction Fréchet distance 0.030 in the classifier's features. "gpu" has not been measured.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.datasets import mnist
from jaxgen.data.sources import Shuffled, Subset, whole_split
from jaxgen.evaluation.classifier import level_activations
from jaxgen.evaluation.features import read
from jaxgen.evaluation.reconstruction import reconstruction_scores
from jaxgen.experiment import Batch, Evaluation, Experiment, Key, Model, Params, Preview, Update
from jaxgen.families.vae.adversarial import AdversarialAutoencoder
from jaxgen.families.vae.autoencoder_kl import AutoencoderKL, gaussian_bottleneck
from jaxgen.families.vae.perceptual import perceptual_distance
from jaxgen.families.vae.quantization import code_scores, rotated
from jaxgen.families.vae.samplers import ReconstructRequest, reconstruction_sampler, walk_sampler
from jaxgen.families.vae.vector_quantization import vector_quantizer
from jaxgen.nn.patch_discriminator import PatchDiscriminator
from jaxgen.training.optimizers import adamw, delayed, warmup_cosine

REQUIRES = {"classifier": "mnist_classifier.py"}


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    widths: tuple[int, ...] = (8, 16, 32)  # channels at 28×28, 14×14, 7×7
    blocks: int = 1  # residual blocks a level of the encoder, one more in the decoder
    latent_channels: int = 2  # of each of the 7×7 latents
    codes: int = 0  # of a code-book instead of a Gaussian bottleneck
    kl_weight: float = 1e-3  # of the divergence of a latent number, in nats
    perceptual_weight: float = 0.1  # of the classifier's distance; the absolute error has 1
    adversarial_weight: float = 0.02  # of the discriminator's term, times the adaptive weight
    adversarial_start: int = 600  # step in which the discriminator joins
    judge_width: int = 8  # channels of the discriminator's first layer
    bfloat16: bool = False  # compute in bfloat16, for accelerators
    steps: int = 1200  # training steps
    batch_size: int = 16  # digits a step
    learning_rate: float = 2e-3  # Adam's highest
    samples: int = 10_000  # test digits scored
    seed: int = 0  # decides everything


SETTINGS = {
    "default": Config(),
    "vq": Config(codes=256, latent_channels=8),
    "tiny": Config(
        widths=(4, 4), latent_channels=1, judge_width=4, steps=8, adversarial_start=4,
        batch_size=16, samples=80,
    ),
    "gpu": Config(
        widths=(64, 128, 256), blocks=2, judge_width=64, bfloat16=True, steps=20_000,
        adversarial_start=5_000, batch_size=256, learning_rate=5e-4,
    ),
}  # fmt: skip


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """An autoencoder and its discriminator in turn, on the training digits."""
    classifier = required["classifier"]
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    see = level_activations(classifier.network, classifier.params)
    quantizer = vector_quantizer(config.codes, config.latent_channels, estimate=rotated)
    sizes = (config.widths, config.blocks, config.latent_channels)
    model = AdversarialAutoencoder(
        AutoencoderKL(1, *sizes, groups=None, gaussian=not config.codes, dtype=dtype),
        quantizer.quantize if config.codes else gaussian_bottleneck(config.kl_weight),
        PatchDiscriminator(config.judge_width, layers=2, dtype=dtype),
        partial(perceptual_distance, see),
        perceptual_weight=config.perceptual_weight,
        adversarial_weight=config.adversarial_weight,
        start=config.adversarial_start,
    )
    test = Subset(mnist("test"), np.arange(config.samples))

    def init(key: Key, batch: Batch) -> tuple[Params, Any]:
        return model.init(key, batch), quantizer.init(key) if config.codes else {}

    passed = jax.jit(model.passed)
    reconstruct = jax.jit(partial(model.reconstruct, key=jax.random.key(0)))

    def score(trained: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        judge = partial(read, classifier.network, classifier.params)
        rows = math.gcd(config.samples, 250)  # no batch is filled up, so that means are exact
        parts = [passed(trained, batch["image"]) for batch, _ in whole_split(data["test"], rows)]
        if config.codes:
            bottleneck = code_scores((part.indices for part in parts), config.codes)
        else:
            kl = [part.metrics["kl_per_latent"] for part in parts]
            bottleneck = {"kl_per_latent": float(np.mean(kl))}
        return {
            **reconstruction_scores(
                judge, lambda seen: reconstruct(trained, pictures=seen), data["test"], rows
            ),
            "latent_deviation": float(np.concatenate([part.values for part in parts]).std()),
            **bottleneck,
        }

    schedule = warmup_cosine(config.learning_rate, config.steps, config.steps // 20)
    start, judged = config.adversarial_start, config.steps - config.adversarial_start
    late = delayed(warmup_cosine(config.learning_rate, judged, judged // 20), start)
    optimizer, judging = (adamw(rate, b1=0.5, b2=0.9, clip=1.0) for rate in (schedule, late))
    return Experiment(
        init=init,
        updates=[
            Update("autoencoder", model.autoencoder_loss, optimizer, moves="autoencoder"),
            Update("discriminator", model.discriminator_loss, judging, moves="discriminator"),
        ],
        data={"train": Shuffled(mnist("train"), config.batch_size, config.seed), "test": test},
        steps=config.steps,
        seed=config.seed,
        network=model.network,
        samplers={
            "reconstruct": reconstruction_sampler(model.reconstruct, test),
            "walk": walk_sampler(model.encode, model.decode, test),
        },
        evaluations=[Evaluation("mnist_classifier", score)],
        previews=[Preview("reconstructions", "reconstruct", ReconstructRequest(), every=300)],
        unit="digits",
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
