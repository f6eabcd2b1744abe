"""Mixtral 8×7B (Jiang et al. 2024): eight experts a layer, each token through two of them.

The sizes are the paper's table 1; of its training it publishes the context, 32,768, and no more.
Batch, rate and schedule are ours, after Llama's. The weight of the balancing loss is that of the
released configuration, 0.02 of a loss that is twice ours; the z-loss's is ST-MoE's (Zoph et al.
2022).

Command: jaxgen train experiments/mixtral_8x7b.py --tokens DIRECTORY --mesh.fsdp N --mesh.expert 8
docs/data.md makes the token files. `--weights DIRECTORY` goes on from Hugging Face's files, which
are streamed into the sharded state.

Hardware and time: not measured here. By arithmetic, 6·12.9e9 operations a token (the parameters
that it passes, of 46.7e9): a trillion tokens take 7.7e22, 114 hours on 1,024 chips of 459e12 a
second at 40 % of that.

Expected: no loss is published; the paper reports MMLU 70.6 (5-shot).
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
from jaxgen.families.autoregressive.architectures import mixtral
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
    vocabulary: int = 32_000  # tokens that the model knows
    width: int = 4096  # of the residual stream
    layers: int = 32  # transformer blocks
    heads: int = 32  # query heads
    groups: int = 8  # heads of keys and values
    hidden: int = 14_336  # width of an expert
    experts: int = 8  # in each layer
    context: int = 32_768  # tokens seen at once
    batch: int = 128  # rows in a step, over all devices: 4.2 million tokens
    steps: int = 238_419  # training steps: a trillion tokens
    rate: float = 3e-4  # AdamW's peak learning rate
    evaluate_every: int = 1000  # steps between estimates, passages and checkpoints
    seed: int = 0  # initialization, data order, samples


SETTINGS = {
    "default": Config(),
    "tiny": Config(
        trial=True, vocabulary=304, width=32, layers=2, heads=4, groups=2, hidden=24, experts=4,
        context=16, batch=16, steps=8, evaluate_every=4,
    ),
}  # fmt: skip


def assets(config: Config) -> dict[str, bytes]:
    """The corpus's tokenizer, which must be the model's, and how large the corpus is."""
    corpus = chosen_corpus(config.tokens, config.trial)
    return corpus.kept(config.vocabulary, "mixtral_8x7b", config.weights)


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-token prediction in bfloat16, whose scores never exist all at once."""
    tokenizer = SubwordTokenizer.from_files(kept)

    def data() -> dict[str, Any]:
        corpus = chosen_corpus(config.tokens, config.trial).unchanged(kept)
        return corpus.sources(config.context, config.batch, config.seed)

    network = mixtral(
        config.vocabulary, config.width, config.layers, config.heads, config.groups, config.hidden,
        experts=config.experts,
    ).clone(dtype=jnp.bfloat16, remat=True)  # fmt: skip
    model, chunk = language_model(network), 256
    warmup = min(2000, config.steps // 10)
    rate = warmup_cosine(config.rate, config.steps, warmup, final=config.rate / 10)
    optimizer = adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    loss = next_token_loss(model, chunk=chunk, penalties={"load_balance": 0.04, "router_z": 1e-3})
    estimate = random_estimate(model, "windows", rows=8, batches=50, chunk=chunk)
    score = full_pass(model, "blocks", 8, chunk)
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
