"""A character-level GPT on tiny Shakespeare, after nanoGPT (Karpathy 2022); the default is our own.

Command: jaxgen train experiments/shakespeare_gpt.py [--setting nanogpt_cpu | gpu]

Hardware and time: one CPU core, 7 minutes; `nanogpt_cpu` 2 minutes on 2; `gpu` not measured yet.

Expected, nats per character on the last tenth of the text (a Witten-Bell 5-gram: 1.669):
`validation/nats`, every character once, in blocks of the context: 1.53; `nanogpt_cpu` 1.91.
`estimate/nats` is nanoGPT's mean over 200 batches of random windows, for which it reports 1.88
(`nanogpt_cpu`) and 1.4697 (`gpu`). The default gets there by Muon (Jordan et al. 2024) for the
blocks' matrices, rotary positions (Su et al. 2021), normalized queries and keys, ReLU², a longer
context; RESULTS.md says what each of them brings.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxgen.data.datasets import shakespeare_text
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.text import Blocks, Windows, fingerprint, text_split, unchanged
from jaxgen.data.tokenizers import CharacterTokenizer
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive import likelihood
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.sampling import GenerateRequest, text_sampler
from jaxgen.families.autoregressive.transformer import Transformer, muon_matrices
from jaxgen.nn.embedding import PositionEmbedding
from jaxgen.nn.mlp import MLP, gelu, squared_relu
from jaxgen.nn.norm import LayerNorm, RMSNorm
from jaxgen.nn.rotary import rotary_angles
from jaxgen.nn.self_attention import SelfAttention
from jaxgen.training.optimizers import adamw, muon, warmup_cosine


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    layers: int = 4  # transformer blocks
    heads: int = 4  # attention heads in a block
    width: int = 128  # of the residual stream
    context: int = 128  # characters seen at once
    batch: int = 16  # windows in a step
    steps: int = 1200  # training steps
    rate: float = 3e-3  # AdamW's peak learning rate
    muon_rate: float = 0.02  # Muon's, for the blocks' matrices; 0: AdamW moves them too
    weight_decay: float = 0.1  # of matrices and embeddings
    dropout: float = 0.0  # on embeddings, attention weights and what each layer adds
    rotary: bool = True  # turn queries and keys by position; off: learned position vectors
    modern: bool = True  # RMSNorm, normalized queries and keys, ReLU²; off: LayerNorm, GELU
    bfloat16: bool = False  # compute in bfloat16, for GPUs; parameters stay float32
    evaluate_every: int = 300  # steps between validation scores, passages and checkpoints
    corpus: str = ""  # a UTF-8 text file to learn instead
    seed: int = 0  # initialization, data order, dropout, samples


NANOGPT = Config(
    context=64, batch=12, steps=2000, rate=1e-3, muon_rate=0, rotary=False, modern=False,
    evaluate_every=250,
)  # fmt: skip
SETTINGS = {
    "default": Config(),
    "nanogpt_cpu": NANOGPT,
    "gpu": replace(
        NANOGPT, layers=6, heads=6, width=384, context=256, batch=64, steps=5000, dropout=0.2,
        bfloat16=True,
    ),
    "tiny": Config(2, 2, width=32, context=16, batch=8, steps=20, evaluate_every=10),
}  # fmt: skip


def corpus(config: Config) -> tuple[str, str]:
    """The first nine tenths, to train on, and the rest."""
    return text_split(config.corpus) if config.corpus else shakespeare_text()


def assets(config: Config) -> dict[str, bytes]:
    """What a run keeps, so that sampling reads no corpus and training goes on with no other."""
    text = corpus(config)
    tokenizer = CharacterTokenizer.from_text("".join(text))
    return {"characters.json": tokenizer.to_bytes(), "corpus.sha256": fingerprint(text)}


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """nanoGPT's model, data and schedule; `rotary`, `modern` and `muon_rate` make it ours."""
    tokenizer = CharacterTokenizer.from_bytes(kept["characters.json"])

    def data() -> dict[str, Any]:
        text = unchanged(corpus(config), kept["corpus.sha256"])
        training, held_out = (tokenizer.encode(part) for part in text)
        return {
            "train": Shuffled(Windows(training, config.context), config.batch, config.seed),
            "blocks": Blocks(held_out, config.context),
            "windows": Windows(held_out, config.context),
        }

    attention = partial(
        SelfAttention, heads=config.heads, bias=False, dropout=config.dropout,
        query_key_norm=RMSNorm if config.modern else None,
        rotary=rotary_angles if config.rotary else None,
    )  # fmt: skip
    network = Transformer(
        tokenizer.vocabulary_size, config.width, config.layers, attention,
        mlp=partial(MLP, 4 * config.width, squared_relu if config.modern else gelu, bias=False),
        norm=RMSNorm if config.modern else partial(LayerNorm, bias=False),
        positions=None if config.rotary else partial(PositionEmbedding, config.context),
        dropout=config.dropout, unroll=config.layers,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
    )  # fmt: skip
    model = language_model(network)

    warmup, peaks = min(100, config.steps // 10), (config.rate, config.muon_rate)
    slow, fast = (warmup_cosine(peak, config.steps, warmup, final=peak / 10) for peak in peaks)
    adam: dict[str, Any] = {"b1": 0.9, "b2": 0.99, "weight_decay": config.weight_decay, "clip": 1.0}
    optimizer = adamw(slow, **adam)
    if config.muon_rate:
        optimizer = muon(fast, muon_matrices, adam_learning_rate=slow, **adam)
    generate = text_sampler(transformer_decoder(network, config.context), tokenizer)
    request = GenerateRequest(tokenizer.characters[0], tokens=300)  # a line break, if it knows any
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("gpt", likelihood.next_token_loss(model), optimizer)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"generate": generate},
        evaluations=[
            Evaluation("validation", likelihood.full_pass(model, "blocks"), config.evaluate_every),
            Evaluation("estimate", likelihood.random_estimate(model, "windows", config.batch)),
        ],
        previews=[Preview("passage", "generate", request, config.evaluate_every)],
        best=Best("validation/nats"),
        checkpoint_every=config.evaluate_every,
        unit="characters",
        units_per_row=config.context,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
