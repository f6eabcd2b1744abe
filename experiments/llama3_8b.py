"""Llama 3 of 8 billion parameters (Llama Team 2024), by what its authors publish of its training.

Sizes and peak rate are of the paper's table 3; 15 trillion tokens in rows of 8,192, vocabulary
128,256. The paper tells the schedule of the largest model alone: 8,000 steps of warm-up, a cosine,
AdamW; that is used here, with batches of 4 million tokens, as that one began. Its mask between the
documents of a row is left out: tokens see those before them, whosever they are.

Command: jaxgen train experiments/llama3_8b.py --tokens DIRECTORY --mesh.fsdp N
docs/data.md makes the token files. `--weights DIRECTORY` goes on from Hugging Face's files, which
are streamed into the sharded state.

Hardware and time: not measured here. Its model card: 1.3 million hours of H100 GPUs. By arithmetic,
6·8.0e9·15e12 = 7.2e23 operations: 1,068 hours on 1,024 chips of 459e12 a second at 40 % of that.

Expected: no loss is published; the card reports MMLU 66.6 (5-shot).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxgen.data.sources import Deferred
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.trial_corpus import chosen_corpus
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive.architectures import llama
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import full_pass, next_token_loss, random_estimate
from jaxgen.families.autoregressive.sampling import GenerateRequest, text_sampler
from jaxgen.interop.hugging_face import load_into
from jaxgen.training.optimizers import adamw, warmup_cosine


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    tokens: str = ""  # a directory of token files and their tokenizer, see docs/data.md
    trial: bool = False  # learn Python's own documentation instead, to try the script out
    weights: str = ""  # a directory of Hugging Face's format to go on from
    vocabulary: int = 128_256  # tokens that the model knows
    width: int = 4096  # of the residual stream
    layers: int = 32  # transformer blocks
    heads: int = 32  # query heads
    groups: int = 8  # heads of keys and values
    hidden: int = 14_336  # width of the gated network
    context: int = 8192  # tokens seen at once
    batch: int = 512  # rows in a step, over all devices: 4.2 million tokens
    steps: int = 3_576_279  # training steps: 15 trillion tokens
    rate: float = 3e-4  # AdamW's peak learning rate
    evaluate_every: int = 1000  # steps between estimates, passages and checkpoints
    seed: int = 0  # initialization, data order, samples


SETTINGS = {
    "default": Config(),
    "tiny": Config(
        trial=True, vocabulary=304, width=32, layers=2, heads=4, groups=2, hidden=48, context=16,
        batch=16, steps=8, evaluate_every=4,
    ),
}  # fmt: skip


def assets(config: Config) -> dict[str, bytes]:
    """The corpus's tokenizer, which must be the model's, and how large the corpus is."""
    corpus = chosen_corpus(config.tokens, config.trial)
    return corpus.kept(config.vocabulary, "llama3_8b", config.weights)


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-token prediction in bfloat16, whose scores never exist all at once."""
    tokenizer = SubwordTokenizer.from_files(kept)

    def data() -> dict[str, Any]:
        corpus = chosen_corpus(config.tokens, config.trial).unchanged(kept)
        return corpus.sources(config.context, config.batch, config.seed)

    network = llama(
        config.vocabulary, config.width, config.layers, config.heads, config.groups, config.hidden
    ).clone(dtype=jnp.bfloat16, remat=True)
    model, chunk = language_model(network), 256
    warmup = min(8000, config.steps // 10)
    rate = warmup_cosine(config.rate, config.steps, warmup, final=config.rate / 100)
    optimizer = adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    loss = next_token_loss(model, chunk=chunk)
    estimate = random_estimate(model, "windows", rows=8, batches=50, chunk=chunk)
    score = full_pass(model, "blocks", 8, chunk, token_bytes=tokenizer.token_bytes)
    request = GenerateRequest("The", tokens=64)
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("gpt", loss, optimizer)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        pretrained=partial(load_into, config.weights, network) if config.weights else None,
        network=network,
        samplers={
            "generate": text_sampler(transformer_decoder(network, config.context), tokenizer)
        },
        evaluations=[
            Evaluation("estimate", estimate, config.evaluate_every),
            Evaluation("validation", score),
        ],
        previews=[Preview("passage", "generate", request, config.evaluate_every)],
        best=Best("estimate/nats"),
        checkpoint_every=config.evaluate_every,
        unit="tokens",
        units_per_row=config.context,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
