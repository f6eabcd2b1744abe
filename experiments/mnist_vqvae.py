"""A VQ-VAE of MNIST: each digit becomes 7×7 codes, for a prior to learn.

Papers: van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete Representation Learning" (arXiv
1711.00937); the rotation trick by Fifty et al. 2024 (arXiv 2410.06424); finite scalar quantization
by Mentzer et al. 2023 (arXiv 2309.15505).

Command: jaxgen train experiments/mnist_vqvae.py [--setting rotation | fsq | gpu]

Hardware and time: one CPU core, 3 minutes, the classifier's training not included.

Expected, over the 10,000 test digits: mean squared error 0.0193 (pixels in [-1, 1]), reconstruction
Fréchet distance 0.097 in the features of the MNIST classifier, all 256 codes used with perplexity
180, at 0.5 bits per pixel. "gpu" has not been measured.
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
from jaxgen.evaluation.features import read
from jaxgen.evaluation.reconstruction import reconstruction_scores
from jaxgen.experiment import Evaluation, Experiment, Key, Model, Preview, Update
from jaxgen.families.vae.convolutional import (
    Autoencoder,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
)
from jaxgen.families.vae.finite_scalar_quantization import finite_scalar_quantizer
from jaxgen.families.vae.quantization import code_scores, rotated, straight_through
from jaxgen.families.vae.samplers import ReconstructRequest, reconstruction_sampler
from jaxgen.families.vae.vector_quantization import vector_quantizer
from jaxgen.families.vae.vqvae import VectorQuantizedAutoencoder
from jaxgen.parallel.sharding import fetched
from jaxgen.training.optimizers import adamw, warmup_cosine

REQUIRES = {"classifier": "mnist_classifier.py"}
ROWS = 250  # test digits scored at a time


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    codes: int = 256  # in the code-book
    dimensions: int = 16  # of a code
    levels: tuple[int, ...] = ()  # of each dimension: round to these, with no code-book at all
    rotation: bool = False  # gradients by the rotation trick; off: straight through
    decay: float = 0.99  # of the code-book's moving averages
    commitment: float = 0.25  # how strongly latents are held near their codes
    restart_below: float = 1.0  # uses a batch, on average, under which a code is put elsewhere
    widths: tuple[int, ...] = (16, 32)  # channels at 14×14, at 7×7
    blocks: int = 2  # residual blocks at 7×7, in the encoder and in the decoder
    bfloat16: bool = False  # compute in bfloat16, for accelerators
    steps: int = 1500  # training steps
    batch_size: int = 128  # digits a step
    learning_rate: float = 3e-3  # Adam's highest
    samples: int = 10_000  # test digits that are scored
    seed: int = 0  # decides everything


SETTINGS = {
    "default": Config(),
    "rotation": Config(rotation=True),
    "fsq": Config(levels=(8, 6, 5)),
    "tiny": Config(
        codes=32, dimensions=4, widths=(8, 8), blocks=1, steps=8, batch_size=16, samples=100
    ),
    "gpu": Config(
        codes=512, dimensions=64, rotation=True, widths=(128, 256), bfloat16=True, steps=10_000,
        batch_size=512, learning_rate=5e-4,
    ),
}  # fmt: skip


def autoencoder(config: Config) -> VectorQuantizedAutoencoder:
    """The network and the quantizer that `config` asks for."""
    if config.levels:
        quantizer = finite_scalar_quantizer(config.levels)
    else:
        quantizer = vector_quantizer(
            config.codes,
            config.dimensions,
            estimate=rotated if config.rotation else straight_through,
            decay=config.decay,
            commitment=config.commitment,
            restart_below=config.restart_below,
        )
    sizes = (config.widths, config.blocks, config.widths[-1] // 2)
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    encoder = ConvolutionalEncoder(quantizer.dimensions, *sizes, dtype)
    return VectorQuantizedAutoencoder(
        Autoencoder(encoder, ConvolutionalDecoder(1, *sizes, dtype)), quantizer
    )


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """Reconstruction of the training digits, scored on the test digits."""
    vqvae, classifier = autoencoder(config), required["classifier"]
    codes = vqvae.quantizer.codes
    encode, decode = jax.jit(vqvae.encode), jax.jit(vqvae.decode)

    def score(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        judge = partial(read, classifier.network, classifier.params)
        indices = [
            fetched(encode(model, batch["image"]))[valid]
            for batch, valid in whole_split(data["test"], ROWS)
        ]
        return {
            **reconstruction_scores(
                judge, lambda seen: decode(model, encode(model, seen)), data["test"], ROWS
            ),
            "bits_per_pixel": math.log2(codes) * indices[0][0].size / (28 * 28),
            **code_scores(indices, codes),
        }

    schedule = warmup_cosine(config.learning_rate, config.steps, config.steps // 20)
    test = Subset(mnist("test"), np.arange(config.samples))
    return Experiment(
        init=vqvae.init,
        # No average of the parameters: the code-book belongs to the encoder of its own step.
        updates=[Update("autoencoder", vqvae.loss(), adamw(schedule))],
        data={"train": Shuffled(mnist("train"), config.batch_size, config.seed), "test": test},
        steps=config.steps,
        seed=config.seed,
        network=vqvae,
        samplers={"reconstruct": reconstruction_sampler(vqvae.reconstruct, test)},
        evaluations=[Evaluation("test", score)],
        previews=[Preview("pairs", "reconstruct", ReconstructRequest(count=20), every=500)],
        unit="digits",
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
