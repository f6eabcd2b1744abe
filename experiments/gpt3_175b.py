"""GPT-3 (Brown et al. 2020) in its eight sizes, by the paper's table 2.1 and appendix B.

300 billion tokens in rows of 2,048; AdamW (β 0.9, 0.95, decay 0.1, norm clipped at 1); the rate
rises over 375 million tokens and falls by a cosine to a tenth over 260 billion. Layers are dense
and banded in turn; how wide the bands were the paper doesn't say: 256 here. It grew the batch from
32,000 tokens over the first billions; here it is whole from the start.

Command: jaxgen train experiments/gpt3_175b.py --tokens DIRECTORY --mesh.fsdp N [--setting 1.3b]
Settings: 125m 350m 760m 1.3b 2.7b 6.7b 13b default (175B). docs/data.md makes the token files.

Hardware and time: not measured here. By arithmetic, 6·175e9·300e9 = 3.15e23 operations (the paper:
3.14e23): 465 hours on 1,024 chips of 459e12 a second at 40 % of that. 125m: 2.25e20, 20 minutes.

Expected: the paper's validation losses (figure 3.1), of its own corpus, follow
2.57·C^-0.048 nats a token, C in petaflop/s-days: 1.73 for 175B.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxgen.data.sources import Deferred
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.trial_corpus import chosen_corpus
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive.architectures import gpt3
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
    layers: int = 96  # transformer blocks
    width: int = 12288  # of the residual stream
    heads: int = 96  # attention heads in a block
    depth: int = 128  # numbers a head
    context: int = 2048  # tokens seen at once
    band: int = 256  # tokens that every second layer sees
    batch: int = 1536  # rows in a step, over all devices: 3.1 million tokens
    accumulate: int = 1  # parts of that, one after the other
    rate: float = 0.6e-4  # AdamW's peak learning rate
    billions: float = 300.0  # tokens to train on
    evaluate_every: int = 1000  # steps between estimates, passages and checkpoints
    seed: int = 0  # initialization, data order, samples

    def steps_of(self, tokens: float) -> int:
        """Steps that so many tokens take."""
        return max(1, round(tokens / (self.batch * self.context)))


def sized(layers: int, width: int, heads: int, depth: int, batch: int, rate: float) -> Config:
    """A row of table 2.1; batches are the powers of two nearest to its millions of tokens."""
    return Config(layers=layers, width=width, heads=heads, depth=depth, batch=batch, rate=rate)


SETTINGS = {
    "default": Config(),
    "13b": sized(40, 5140, 40, 128, 1024, 1.0e-4),
    "6.7b": sized(32, 4096, 32, 128, 1024, 1.2e-4),
    "2.7b": sized(32, 2560, 32, 80, 512, 1.6e-4),
    "1.3b": sized(24, 2048, 24, 128, 512, 2.0e-4),
    "760m": sized(24, 1536, 16, 96, 256, 2.5e-4),
    "350m": sized(24, 1024, 16, 64, 256, 3.0e-4),
    "125m": sized(12, 768, 12, 64, 256, 6.0e-4),
    "tiny": Config(
        trial=True, vocabulary=304, width=32, layers=2, heads=2, depth=8, context=16, band=4,
        batch=16, accumulate=2, billions=8 * 256e-9, evaluate_every=4,
    ),
}  # fmt: skip


def assets(config: Config) -> dict[str, bytes]:
    """The corpus's tokenizer, which must be the model's, and how large the corpus is."""
    corpus = chosen_corpus(config.tokens, config.trial)
    return corpus.kept(config.vocabulary, "gpt3_175b")


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-token prediction in bfloat16, whose scores never exist all at once."""
    tokenizer = SubwordTokenizer.from_files(kept)

    def data() -> dict[str, Any]:
        corpus = chosen_corpus(config.tokens, config.trial).unchanged(kept)
        return corpus.sources(config.context, config.batch, config.seed)

    network = gpt3(
        config.width, config.layers, config.heads, config.depth,
        vocabulary=config.vocabulary, context=config.context, band=config.band,
    ).clone(dtype=jnp.bfloat16, remat=True)  # fmt: skip
    model, chunk = language_model(network), 256
    rising, falling = config.steps_of(375e6), config.steps_of(260e9 * config.billions / 300)
    rate = warmup_cosine(config.rate, falling, min(rising, falling // 10), config.rate / 10)
    optimizer = adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    loss = next_token_loss(model, chunk=chunk)
    estimate = random_estimate(model, "windows", rows=8, batches=50, chunk=chunk)
    score = full_pass(model, "blocks", 8, chunk, token_bytes=tokenizer.token_bytes)
    decoder, request = (
        transformer_decoder(network, config.context),
        GenerateRequest("The", tokens=64),
    )
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("gpt", loss, optimizer, accumulate=config.accumulate, reduce_once=True)],
        data=Deferred(data),
        steps=config.steps_of(config.billions * 1e9),
        seed=config.seed,
        network=network,
        samplers={"generate": text_sampler(decoder, tokenizer)},
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
