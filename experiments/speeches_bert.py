"""BERT on the State of the Union speeches, on word pieces learned from them.

Devlin et al. 2019: some 15 % of the tokens are hidden, and guessed from both sides; masks are drawn
anew at each look (Liu et al. 2019). Rows are pieces of one speech; there is no second sentence and
no next-sentence task, which later work found no use for (Liu et al. 2019, section 4.2).

Command: jaxgen train experiments/speeches_bert.py [--setting gpu]

Hardware and time: 2 CPU cores, see RESULTS.md; `gpu` not measured yet.

Expected, on 29 whole speeches held out, with masks that are fixed: `held_out/accuracy`, the share
of hidden tokens guessed rightly, and `held_out/perplexity`; both in RESULTS.md beside what the
tokens' frequencies alone come to (`frequencies`).
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
from jaxgen.experiment import Best, Evaluation, Experiment, Key, Model, Preview, Update
from jaxgen.families.autoregressive import masked_language
from jaxgen.families.autoregressive.architectures import bert
from jaxgen.families.autoregressive.mask_filling import FillRequest, mask_filling_sampler
from jaxgen.families.autoregressive.transformer import muon_matrices
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
    dropout: float = 0.0  # on embeddings, attention weights and what each layer adds
    masked: float = 0.15  # share of tokens to guess
    bfloat16: bool = False  # compute in bfloat16, for GPUs; parameters stay float32
    evaluate_every: int = 500  # steps between scores, guesses and checkpoints
    seed: int = 0  # initialization, data order, masks, dropout


SETTINGS = {
    "default": Config(),
    "tiny": Config(400, 2, heads=2, width=32, context=16, batch=8, steps=8, evaluate_every=4),
    "gpu": Config(
        8192, 12, heads=8, width=512, context=256, batch=64, steps=20_000, rate=5e-4, dropout=0.1,
        bfloat16=True,
    ),
}  # fmt: skip


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
        training, held_out = data["train"].items, data["held_out"]
        rows, asked = (items[np.arange(len(items))] for items in (training, held_out))
        counts = 1 + np.bincount(rows["tokens"].ravel(), minlength=tokenizer.vocabulary_size)
        counts[list(tokenizer.special_tokens)] = 0
        hidden = asked["targets"][asked["chosen"]]
        nats = float(-np.log(counts[hidden] / counts.sum()).mean())
        return {"nats": nats, "accuracy": float(np.mean(hidden == counts.argmax()))}

    network = bert(
        tokenizer.vocabulary_size, config.width, config.layers, config.heads,
        context=config.context, types=0, dropout=config.dropout,
    ).clone(
        unroll=config.layers, pools=False,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
    )  # fmt: skip
    model = masked_language.masked_language_model(network)
    most = round(config.masked * config.context) + 1
    loss = masked_language.masked_language_loss(model, most=most)
    rate = partial(warmup_cosine, steps=config.steps, warmup=config.steps // 10)
    optimizer = muon(
        rate(config.muon_rate), muon_matrices, adam_learning_rate=rate(config.rate),
        weight_decay=config.weight_decay, adam_weight_decay=config.weight_decay, clip=1.0,
    )  # fmt: skip
    score = masked_language.masked_pass(model, "held_out", chunk=16)
    fill = mask_filling_sampler(
        model, partial(tokenizer.encode, special=True), tokenizer.decode,
        mask=mask, padding=padding, context=config.context,
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
