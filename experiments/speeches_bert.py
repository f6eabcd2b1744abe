"""BERT on the State of the Union speeches, on word pieces learned from them.

Devlin et al. 2019: some tokens are hidden, and guessed from both sides; the masks are drawn anew at
each look, and there is no second sentence (Liu et al. 2019). By default with what later encoders
brought (Warner et al. 2024): rotary positions and pre-norm; `--no-modern` is BERT's own network,
which in so few steps learns little beyond the tokens' frequencies. Matrices by Muon.

Command: jaxgen train experiments/speeches_bert.py [--setting gpu]

Hardware and time: 2 CPU cores, some 5 minutes by its CPU time; `gpu` not measured yet.

Expected, on 29 whole speeches held out, with fixed masks: `held_out/accuracy`, the share of hidden
tokens guessed rightly, and `held_out/perplexity`; in RESULTS.md beside guessing by `frequencies`.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.data.datasets import speeches
from jaxgen.data.framing import Framed
from jaxgen.data.masking import Masked, Masking
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.subword_training import train_word_pieces
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.text import fingerprint, unchanged
from jaxgen.evaluation.token_frequencies import guessed_by_frequency
from jaxgen.experiment import Best, Evaluation, Experiment, Key, Model, Preview, Update
from jaxgen.families.autoregressive import masked_language
from jaxgen.families.autoregressive.architectures import bert
from jaxgen.families.autoregressive.mask_filling import FillRequest, mask_filling_sampler
from jaxgen.families.autoregressive.transformer import muon_matrices
from jaxgen.nn.norm import RMSNorm
from jaxgen.nn.rotary import rotary_angles
from jaxgen.nn.transformer_blocks import pre_norm
from jaxgen.training.optimizers import muon, warmup_cosine


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    vocabulary: int = 4096  # word pieces, special tokens among them
    layers: int = 4  # transformer blocks
    heads: int = 4  # attention heads in a block
    width: int = 192  # of the residual stream
    context: int = 64  # tokens in a row
    batch: int = 32  # rows in a step
    steps: int = 1000  # training steps
    rate: float = 2e-3  # AdamW's peak learning rate
    muon_rate: float = 0.02  # Muon's, for the blocks' matrices
    weight_decay: float = 0.01  # of matrices and embeddings
    modern: bool = True  # rotary positions, pre-norm, normalized queries and keys; off: BERT's own
    dropout: float = 0.0  # on embeddings, attention weights and what each layer adds
    masked: float = 0.2  # share of tokens to guess
    bfloat16: bool = False  # compute in bfloat16, for GPUs; parameters stay float32
    evaluate_every: int = 500  # steps between scores, guesses and checkpoints
    seed: int = 0  # initialization, data order, masks, dropout


SETTINGS = {
    "default": Config(),
    "tiny": Config(400, 2, heads=2, width=32, context=16, batch=8, steps=8, evaluate_every=4),
    "gpu": Config(8192, 12, 8, 512, context=256, batch=64, steps=20_000, bfloat16=True),
}


def texts(part: int) -> tuple[str, ...]:
    """The speeches of one part: 0 to train on, 1 held out."""
    return tuple(speech.text for speech in speeches()[part])


def assets(config: Config) -> dict[str, bytes]:
    """The word pieces, learned from what is trained on, and which speeches those were."""
    pieces = train_word_pieces(texts(0), config.vocabulary)
    return {**pieces.files(), "speeches.sha256": fingerprint(texts(0) + texts(1))}


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Guessing hidden tokens; `held_out` scores each of those hidden in the held-out speeches."""
    tokenizer = SubwordTokenizer.from_files(kept)
    number, every = tokenizer.special_token, config.evaluate_every
    size = tokenizer.vocabulary_size
    first, last, padding, mask = number("cls"), number("sep"), number("pad"), number("mask")
    masking = Masking.of(tokenizer, config.masked)

    def framed(part: int) -> Framed:
        return Framed(tokenizer.encode_ordinary(texts(part)), config.context, first, last, padding)

    def data() -> dict[str, Any]:
        unchanged(texts(0) + texts(1), kept["speeches.sha256"])
        return {
            "train": Shuffled(framed(0), config.batch, config.seed, masking),
            "held_out": Masked(framed(1), masking),
        }

    def frequencies(_: Model, data: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        """What guessing by the tokens' frequencies alone comes to."""
        rows, asked = (i[np.arange(len(i))] for i in (data["train"].items, data["held_out"]))
        hidden = asked["targets"][asked["chosen"]]
        return guessed_by_frequency(rows["tokens"], hidden, size, tokenizer.special_tokens)

    network = bert(
        size, config.width, config.layers, config.heads,
        context=config.context, types=1, dropout=config.dropout,
    ).clone(
        unroll=config.layers, pools=False,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
    )  # fmt: skip
    if config.modern:
        network = network.clone(
            attention=partial(network.attention, rotary=rotary_angles, query_key_norm=RMSNorm),
            positions=None, order=pre_norm,
        )  # fmt: skip
    model = masked_language.masked_language_model(network)
    loss = masked_language.masked_language_loss(model, most=round(config.masked * config.context))
    rate = partial(warmup_cosine, steps=config.steps, warmup=config.steps // 10)
    slow, fast, decay = rate(config.rate), rate(config.muon_rate), config.weight_decay
    optimizer = muon(fast, muon_matrices, adam_learning_rate=slow, weight_decay=decay, clip=1.0)
    score = masked_language.masked_pass(model, "held_out", chunk=16)
    fill = mask_filling_sampler(
        model, partial(tokenizer.encode, special=True), tokenizer.decode,
        mask=mask, padding=padding, vocabulary_size=size, context=config.context,
    )  # fmt: skip
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"])["params"], {}),
        updates=[Update("bert", loss, optimizer)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"fill": fill},
        evaluations=[Evaluation("held_out", score, every), Evaluation("frequencies", frequencies)],
        previews=[Preview("guesses", "fill", FillRequest(), every)],
        best=Best("held_out/nats"),
        checkpoint_every=config.evaluate_every,
        unit="tokens",
        units_per_row=config.context,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
