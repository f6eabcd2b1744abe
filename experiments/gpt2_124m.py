"""GPT-2 of 124 million parameters (Radford et al. 2019), trained by nanoGPT's published recipe.

Karpathy 2022, `config/train_gpt2.py`: 600,000 steps of 491,520 tokens of OpenWebText (295 billion
tokens), AdamW, a cosine to a tenth, no dropout. The network is OpenAI's, with its biases, which
nanoGPT leaves out. docs/data.md says how to make the token files.

Command: jaxgen train experiments/gpt2_124m.py --tokens DIRECTORY [--mesh.fsdp 8] [--setting gpu]

Hardware and time: not measured here. nanoGPT's took about 4 days on 8 A100 of 40 GB. By arithmetic,
6·124e6 operations a token, and a seventh more in attention: 2.5e20 operations. `gpu`, 10 billion
tokens, is for one GPU of 80 GB.

Expected: nanoGPT's loss on OpenWebText is about 2.85 nats a token; OpenAI's own weights, before
they have seen that text, have 3.12 there (both by its README).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from jaxgen.data.sources import Deferred
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.trial_corpus import chosen_corpus
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive.architectures import gpt2
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import full_pass, next_token_loss, random_estimate
from jaxgen.families.autoregressive.sampling import GenerateRequest, text_sampler
from jaxgen.training.optimizers import adamw, warmup_cosine


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    tokens: str = ""  # a directory of token files and their tokenizer, see docs/data.md
    trial: bool = False  # learn Python's own documentation instead, to try the script out
    vocabulary: int = 50304  # GPT-2's 50,257 tokens, and room that makes it divide by 128
    width: int = 768  # of the residual stream
    layers: int = 12  # transformer blocks
    heads: int = 12  # attention heads in a block
    context: int = 1024  # tokens seen at once
    batch: int = 480  # windows in a step, over all devices
    accumulate: int = 5  # parts of that, one after the other
    steps: int = 600_000  # training steps
    warmup: int = 2000  # of those, while the rate rises
    rate: float = 6e-4  # AdamW's peak learning rate; it falls to a tenth
    evaluate_every: int = 1000  # steps between estimates, passages and checkpoints
    seed: int = 0  # initialization, data order, samples


SETTINGS = {
    "default": Config(),
    "gpu": replace(Config(), batch=512, accumulate=16, steps=19_073, warmup=700),
    "tiny": Config(
        trial=True, vocabulary=304, width=32, layers=2, heads=2, context=16, batch=16,
        accumulate=2, steps=8, warmup=2, evaluate_every=4,
    ),
}  # fmt: skip


def assets(config: Config) -> dict[str, bytes]:
    """The corpus's tokenizer, which must be the model's, and how large the corpus is."""
    corpus = chosen_corpus(config.tokens, config.trial)
    return corpus.kept(config.vocabulary, "gpt2_124m")


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-token prediction in bfloat16, whose scores never exist all at once."""
    tokenizer = SubwordTokenizer.from_files(kept)

    def data() -> dict[str, Any]:
        corpus = chosen_corpus(config.tokens, config.trial).unchanged(kept)
        return corpus.sources(config.context, config.batch, config.seed)

    network = gpt2(
        config.vocabulary, config.width, config.layers, config.heads, config.context
    ).clone(dtype=jnp.bfloat16)
    model, chunk = language_model(network), 256
    rate = warmup_cosine(config.rate, config.steps, config.warmup, final=config.rate / 10)
    optimizer = adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    loss = next_token_loss(model, chunk=chunk)
    estimate = random_estimate(model, "windows", rows=8, batches=50, chunk=chunk)
    score = full_pass(model, "blocks", 8, chunk, token_bytes=tokenizer.token_bytes)
    request = GenerateRequest("The", tokens=64)
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("gpt", loss, optimizer, accumulate=config.accumulate, reduce_once=True)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
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
