"""A transformer over the codes of the MNIST VQ-VAE: digits of a class, drawn code by code.

Papers: van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete Representation Learning" (arXiv
1711.00937), section 4.2; a transformer for its PixelCNN, with the class as the first token, after
Esser et al. 2021, "Taming Transformers" (arXiv 2012.09841).

Command: jaxgen train experiments/mnist_vqvae_prior.py [--vqvae RUN]

Hardware and time: 11 minutes on half a CPU core, with a finished VQ-VAE and classifier.

Expected: 80.8 nats for a test digit's codes; the classifier agrees with the class of 90 % of 10,000
draws, Fréchet distance 2.5, precision 0.71, recall 0.90. "gpu" has not been measured.
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
from jaxgen.data.sources import Computed, Item, Shuffled, Subset
from jaxgen.evaluation.features import read
from jaxgen.evaluation.image_scores import image_scores, reference
from jaxgen.experiment import Evaluation, Experiment, Key, Model, Preview, Update
from jaxgen.families.autoregressive import likelihood
from jaxgen.families.autoregressive.code_sampling import CodeRequest, as_tokens, code_sampler
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.transformer import Transformer, muon_matrices
from jaxgen.nn.embedding import PositionEmbedding
from jaxgen.nn.mlp import MLP, squared_relu
from jaxgen.nn.norm import RMSNorm
from jaxgen.nn.self_attention import SelfAttention
from jaxgen.parallel.sharding import fetched
from jaxgen.training.optimizers import muon, warmup_cosine

REQUIRES = {"vqvae": "mnist_vqvae.py", "classifier": "mnist_classifier.py"}


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    layers: int = 3  # transformer blocks
    heads: int = 4  # attention heads in a block
    width: int = 96  # of the residual stream
    dropout: float = 0.0  # on embeddings and on what each layer adds
    bfloat16: bool = False  # compute in bfloat16, for accelerators
    steps: int = 800  # training steps
    batch_size: int = 64  # digits a step
    learning_rate: float = 3e-3  # AdamW's highest, for embeddings and norms
    muon_rate: float = 0.02  # Muon's, for the blocks' matrices
    weight_decay: float = 0.1  # of matrices and embeddings
    temperature: float = 1.0  # of the samples that are scored
    top_k: int = 0  # codes that those are drawn from; 0 is all
    samples: int = 10_000  # scored, against as many test digits
    seed: int = 0  # decides everything


SETTINGS = {
    "default": Config(),
    "tiny": Config(layers=1, heads=2, width=16, steps=8, batch_size=16, samples=100),
    "gpu": Config(
        layers=8, heads=8, width=512, dropout=0.1, bfloat16=True, steps=10_000, batch_size=256,
        learning_rate=1e-3,
    ),
}  # fmt: skip


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """Next-code prediction on the training digits; digits are drawn class by class."""
    classifier, vqvae = required["classifier"], required["vqvae"].network
    pictures = partial(vqvae.decode, required["vqvae"].model)
    encode, codes = jax.jit(vqvae.encode), vqvae.quantizer.codes
    encoder = fetched(required["vqvae"].model)  # for batches, made in threads on each host

    def tokens(batch: Item) -> dict[str, Any]:
        made = np.asarray(encode(encoder, batch["image"]))
        return {"tokens": as_tokens(made, batch["label"], codes)}

    test = Subset(mnist("test"), np.arange(config.samples))
    blank = jax.ShapeDtypeStruct(test[np.arange(1)]["image"].shape, jnp.float32)
    _, height, width = jax.eval_shape(vqvae.encode, required["vqvae"].model, blank).shape
    places = height * width
    network = Transformer(
        codes + 10, config.width, config.layers,
        partial(SelfAttention, heads=config.heads, bias=False, query_key_norm=RMSNorm),
        partial(MLP, hidden=4 * config.width, activation=squared_relu, bias=False),
        RMSNorm,
        positions=partial(PositionEmbedding, places + 1),
        dropout=config.dropout, unroll=config.layers,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
    )  # fmt: skip
    prior = language_model(network)
    decoder = transformer_decoder(network, places + 1)
    sampler = code_sampler(decoder, pictures, codes=codes, grid=(height, width), classes=10)
    nats = likelihood.full_pass(prior, "test", rows=100)
    draw = jax.jit(sampler.sample, static_argnums=2)

    def score_codes(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        each = nats(model, data, key)["nats"]
        return {"nats_per_picture": each * places, "bits_per_code": each / math.log(2)}

    def score_samples(model: Model, data: Mapping[str, Any], key: Key) -> dict[str, float]:
        chunk = min(500, config.samples)
        plan, arrays = sampler.prepare(CodeRequest(-1, chunk, config.temperature, config.top_k))
        keys = jax.random.split(key, -(-config.samples // chunk))
        parts = [fetched(draw(model, each, plan, arrays)["image"]) for each in keys]
        drawn = np.concatenate(parts)[: config.samples]
        look = partial(read, classifier.network, classifier.params)
        agrees = look(drawn)[0] == np.resize(arrays["label"], len(drawn))
        scores = image_scores(look, reference(look, test), drawn)
        return {"label_agreement": float(np.mean(agrees)), **scores}

    adam, fast = (
        warmup_cosine(peak, config.steps, config.steps // 20)
        for peak in (config.learning_rate, config.muon_rate)
    )
    decay = config.weight_decay
    optimizer = muon(fast, muon_matrices, adam_learning_rate=adam, weight_decay=decay, clip=1.0)
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("prior", likelihood.next_token_loss(prior), optimizer)],
        data={
            "train": Shuffled(Computed(mnist("train"), tokens), config.batch_size, config.seed),
            "test": Computed(test, tokens, rows=min(500, config.samples)),
        },
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"draw": sampler},
        evaluations=[Evaluation("codes", score_codes), Evaluation("samples", score_samples)],
        previews=[Preview("classes", "draw", CodeRequest(), every=400)],
        unit="digits",
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
