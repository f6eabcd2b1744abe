"""What a Python function does, in a line: its docstring's first, from its source.

An encoder–decoder (T5, Raffel et al. 2020) on byte pairs; answers by beams. Functions are Python's
own and those of packages that jaxgen needs, cleaned as CodeSearchNet's (Husain et al. 2019), whole
packages held out; the data set `pydoc` prepares itself. Documentation and comments are no part of
the source, of which the model reads the beginning.

Command: jaxgen train experiments/pydoc_summary.py [--setting gpu]
Hardware and time: 2 CPU cores, see RESULTS.md; `gpu` not measured yet.
Expected, in RESULTS.md: `test/rouge_l`, F-measure with stems, beside that of the function's name.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxgen.data.parallel_text import ParallelText
from jaxgen.data.python_functions import PythonFunction, python_functions, words_of
from jaxgen.data.python_source import bare
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.evaluation.summary import rouge
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

EXAMPLE = "def f(path):\n    with open(path) as file:\n        return file.read().splitlines()"


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    vocabulary: int = 4096  # byte pairs of sources and summaries
    layers: int = 3  # of the encoder, and as many of the decoder
    heads: int = 6  # of 32 numbers each
    width: int = 192  # of the residual streams
    room: int = 96  # tokens of a source that are read, and of a row in training
    summary_room: int = 40  # tokens of a summary, and of a row's
    batch: int = 32  # rows in a step
    steps: int = 1500  # training steps
    rate: float = 3e-3  # AdamW's peak learning rate
    muon_rate: float = 0.02  # Muon's
    dropout: float = 0.0  # on embeddings, in blocks and on what each adds
    beams: int = 4  # of the test
    functions: int = 0  # so many of each part; 0 is all
    bfloat16: bool = False  # compute in it, for GPUs; parameters stay float32
    evaluate_every: int = 500  # steps between scores on development packages, and checkpoints
    seed: int = 0  # initialization, data order, dropout


SETTINGS = {
    "default": Config(),
    "tiny": Config(300, 2, 1, 32, 64, 48, 8, 6, beams=2, functions=12, evaluate_every=3),
    "gpu": Config(
        8192, 6, heads=16, width=512, room=384, batch=64, steps=20_000, rate=1e-3, dropout=0.2,
        bfloat16=True, evaluate_every=2000,
    ),
}  # fmt: skip


def _pairs(functions: Sequence[PythonFunction]) -> list[tuple[str, str]]:
    return [(function.source, function.summary) for function in functions]


def assets(config: Config) -> dict[str, bytes]:
    """The byte pairs, learned from both sides of what is trained on."""
    training = python_functions()[0][: config.functions or None]
    texts = [text for pair in _pairs(training) for text in pair]
    return train_byte_pairs(texts, config.vocabulary).files()


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-token prediction on packed pairs; scores are those of whole summaries."""
    tokenizer = SubwordTokenizer.from_files(kept)
    parallel = ParallelText(tokenizer, config.room, config.summary_room, cut=True)

    def data() -> dict[str, Any]:
        parts = [part[: config.functions or None] for part in python_functions()]
        training, development, test = (_pairs(part) for part in parts)
        asked, asked_pairs = parallel.asked(test)
        watched, watched_pairs = parallel.asked(development[:256])
        return {
            "train": Shuffled(parallel.packed(training), config.batch, config.seed),
            "test": asked, "test_pairs": asked_pairs, "functions": parts[2],
            "development": watched, "development_pairs": watched_pairs,
        }  # fmt: skip

    network = t5(
        tokenizer.vocabulary_size, config.width, config.layers, config.heads, 32, 2 * config.width,
        gated=True, dropout=config.dropout, query_key_norm=True, unroll=config.layers,
    ).clone(dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32)  # fmt: skip
    transducer = Transducer(network, parallel.end, parallel.end, *parallel.rooms)

    def scored(part: str, beams: int) -> Evaluation:
        def judge(answers: Sequence[Sequence[int]], data: Mapping[str, Any]) -> dict[str, float]:
            right = [summary for _, summary in data[f"{part}_pairs"]]
            return rouge(right, list(map(parallel.text, answers)), stem=True)

        score = answers_scored(transducer, part, judge, beams=beams, rows=32)
        return Evaluation(part, score, config.evaluate_every if part == "development" else None)

    def named(_: Model, data: Mapping[str, Any], key: Any) -> dict[str, float]:
        names = [words_of(function.own_name) for function in data["functions"]]
        return rouge([function.summary for function in data["functions"]], names, stem=True)

    rates = (config.rate, config.muon_rate)
    slow, fast = (warmup_cosine(peak, config.steps, config.steps // 10) for peak in rates)
    optimizer = muon(fast, tower_matrices, adam_learning_rate=slow, b2=0.98, clip=1.0)
    loss = next_token_loss(sourced_language_model(network), label_smoothing=0.1)
    encode = lambda text: parallel.source(bare(text))
    sampler = transduction_sampler(transducer, encode, parallel.text, EXAMPLE)
    return Experiment(
        init=lambda key, batch: (
            network.init(key, batch["source"], batch["tokens"][:, :-1])["params"], {},
        ),
        updates=[Update("summary", loss, optimizer, ema=0.995)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"describe": sampler},
        evaluations=[
            scored("development", 1), scored("test", config.beams), Evaluation("name", named),
        ],
        previews=[Preview("function", "describe", TransduceRequest(), config.evaluate_every)],
        best=Best("development/rouge_l", higher_is_better=True),
        checkpoint_every=config.evaluate_every,
        unit="tokens",
        units_per_row=config.summary_room,
    )  # fmt: skip


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
