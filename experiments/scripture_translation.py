"""English to Spanish, on the verses of two old translations.

An encoder–decoder (T5, Raffel et al. 2020) on byte pairs that both languages share (Sennrich et
al. 2016); answers by beams. The verses are those of Debian's sword-text-web and sword-text-sparv,
both in the public domain; `jaxgen datasets` says how to get them. Whole books are held out, so that
no verse's neighbours are seen; verses longer than the room are left out, of the test too.

Command: jaxgen train experiments/scripture_translation.py [--setting gpu]
Hardware and time: 2 CPU cores, see RESULTS.md; `gpu` not measured yet.

Expected, in RESULTS.md: `test/bleu` and `test/chrf` by sacrebleu, whose signatures are
nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp and nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no;
beside them those of copying the English verse.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxgen.data.pairs import scripture
from jaxgen.data.parallel_text import ParallelText
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.evaluation.translation import translation_scores
from jaxgen.experiment import Best, Evaluation, Experiment, Model, Preview, Update
from jaxgen.families.autoregressive.encoder_decoder import tower_matrices
from jaxgen.families.autoregressive.encoder_decoder_architectures import t5
from jaxgen.families.autoregressive.language_model import sourced_language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.transduction import (
    Transducer,
    TransduceRequest,
    answers_scored,
    transduction_sampler,
)
from jaxgen.training.optimizers import muon, warmup_cosine


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    vocabulary: int = 4096  # byte pairs of both languages
    layers: int = 3  # of the encoder, and as many of the decoder
    heads: int = 6  # of 32 numbers each
    width: int = 192  # of the residual streams
    room: int = 128  # tokens of a verse, and of a row in training
    batch: int = 16  # rows in a step
    steps: int = 1600  # training steps
    rate: float = 3e-3  # AdamW's peak learning rate
    muon_rate: float = 0.02  # Muon's
    dropout: float = 0.0  # on embeddings, in blocks and on what each adds
    beams: int = 4  # of the test
    verses: int = 0  # so many of each part; 0 is all
    bfloat16: bool = False  # compute in it, for GPUs; parameters stay float32
    evaluate_every: int = 800  # steps between scores on development verses, and checkpoints
    seed: int = 0  # initialization, data order, dropout


SETTINGS = {
    "default": Config(),
    "tiny": Config(
        300, 2, heads=1, width=32, room=64, batch=8, steps=6, beams=2, verses=12, evaluate_every=3
    ),
    "gpu": Config(
        8192, 6, heads=16, width=512, batch=128, steps=20_000, rate=1e-3, dropout=0.3,
        bfloat16=True, evaluate_every=2000,
    ),
}  # fmt: skip


def assets(config: Config) -> dict[str, bytes]:
    """The byte pairs, learned from both sides of what is trained on."""
    training = scripture()[0][: config.verses or None]
    texts = [text for verse in training for text in (verse.english, verse.spanish)]
    return train_byte_pairs(texts, config.vocabulary).files()


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-token prediction on packed verses; scores are those of whole translations."""
    tokenizer = SubwordTokenizer.from_files(kept)
    parallel = ParallelText(tokenizer, config.room)

    def data() -> dict[str, Any]:
        training, development, test = (
            [(verse.english, verse.spanish) for verse in part[: config.verses or None]]
            for part in scripture()
        )
        asked, asked_pairs = parallel.asked(test)
        watched, watched_pairs = parallel.asked(development[:200])
        return {
            "train": Shuffled(parallel.packed(training), config.batch, config.seed),
            "test": asked, "test_pairs": asked_pairs,
            "development": watched, "development_pairs": watched_pairs,
        }  # fmt: skip

    network = t5(
        tokenizer.vocabulary_size, config.width, config.layers, config.heads, 32, 2 * config.width,
        gated=True, dropout=config.dropout, query_key_norm=True, unroll=config.layers,
    ).clone(dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32)  # fmt: skip
    transducer = Transducer(network, parallel.end, parallel.end, config.room, config.room)

    def scored(part: str, beams: int) -> Evaluation:
        def judge(answers: Sequence[Sequence[int]], data: Mapping[str, Any]) -> dict[str, float]:
            right = [[spanish] for _, spanish in data[f"{part}_pairs"]]
            return translation_scores(right, list(map(parallel.text, answers)))

        score = answers_scored(transducer, part, judge, beams=beams, rows=32)
        return Evaluation(part, score, config.evaluate_every if part == "development" else None)

    def copied(_: Model, data: Mapping[str, Any], key: Any) -> dict[str, float]:
        english, spanish = zip(*data["test_pairs"], strict=True)
        return translation_scores([[one] for one in spanish], english)

    rates = (config.rate, config.muon_rate)
    slow, fast = (warmup_cosine(peak, config.steps, config.steps // 10) for peak in rates)
    optimizer = muon(fast, tower_matrices, adam_learning_rate=slow, b2=0.98, clip=1.0)
    model = sourced_language_model(network)
    loss = next_token_loss(model, chunk=64, label_smoothing=0.1)
    example = "The angel of the Lord spoke to me."
    sampler = transduction_sampler(transducer, tokenizer.encode, parallel.text, example)
    return Experiment(
        init=lambda key, batch: (
            network.init(key, batch["source"], batch["tokens"][:, :-1])["params"], {},
        ),
        updates=[Update("translation", loss, optimizer, ema=0.995)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"translate": sampler},
        evaluations=[
            scored("development", 1), scored("test", config.beams), Evaluation("copied", copied),
        ],
        previews=[Preview("verse", "translate", TransduceRequest(), config.evaluate_every)],
        best=Best("development/chrf", higher_is_better=True),
        checkpoint_every=config.evaluate_every,
        unit="tokens",
        units_per_row=config.room,
    )  # fmt: skip


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
