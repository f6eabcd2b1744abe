"""Spelling to sound by recurrent networks that look at the word: attention before transformers.

A bidirectional LSTM reads a word's letters, another one writes its phonemes, with Luong's attention
(Luong et al. 2015) or, by `--before`, Bahdanau's (Bahdanau et al. 2015). Dictionary, split and
scores are those of cmudict_g2p.py, beside whose transformer it stands in RESULTS.md.

Command: jaxgen train experiments/cmudict_g2p_rnn.py [--before]
Hardware and time: 2 CPU cores, see RESULTS.md.
Expected: `test/word_error` by beams, in RESULTS.md. g2p-seq2seq's transformer of 3 layers and width
256 is published at 30.2 % of words wrong (its README), on another revision of the dictionary.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxgen.data.pairs import cmudict
from jaxgen.data.pronunciation import BEGIN, END, PronunciationTokens
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.evaluation.error_rates import pronunciation_errors
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive.attentive_recurrent import (
    AttentiveRecurrent,
    LookAfter,
    LookBefore,
)
from jaxgen.families.autoregressive.language_model import sourced_language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.recurrent_decoder import attentive_decoder
from jaxgen.families.autoregressive.transduction import (
    Transducer,
    TransduceRequest,
    answers_scored,
    transduction_sampler,
)
from jaxgen.nn.recurrent_cells import LSTM
from jaxgen.nn.recurrent_stack import BothWays, RecurrentStack
from jaxgen.training.optimizers import adamw, warmup_cosine

LETTERS, PHONEMES = 36, 36  # room for the longest word, and for the longest answer


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    before: bool = False  # Bahdanau's attention, before the decoder moves; else Luong's, after
    layers: int = 1  # of the decoder
    width: int = 128  # of each direction of the encoder, and of the decoder
    batch: int = 128  # words in a step
    steps: int = 2000  # training steps
    rate: float = 4e-3  # AdamW's peak learning rate
    weight_decay: float = 0.01  # of matrices and embeddings
    dropout: float = 0.1  # on embeddings, and on what phonemes are scored by
    smoothing: float = 0.1  # of the targets
    ema: float = 0.998  # of the parameters
    beams: int = 4  # of the test
    words: int = 0  # to train on, so many of the first; 0 is all
    evaluate_every: int = 1000  # steps between scores on development words, and checkpoints
    seed: int = 0  # initialization, data order, dropout


SETTINGS = {
    "default": Config(),
    "tiny": Config(width=16, batch=8, steps=6, beams=2, words=100, evaluate_every=3),
}


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
        pairs = tokens.every(training, LETTERS, PHONEMES)
        return {"train": Shuffled(pairs, config.batch, config.seed)} | asked | right

    width = config.width
    step = partial(
        LookBefore if config.before else LookAfter,
        partial(RecurrentStack, [partial(LSTM, width, unroll=1)] * config.layers),
    )
    encoder = partial(BothWays, partial(LSTM, width), partial(LSTM, width))
    network = AttentiveRecurrent(tokens.vocabulary_size, width, encoder, step, config.dropout)
    transducer = Transducer(network, BEGIN, END, LETTERS, PHONEMES, decoder=attentive_decoder)

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
        unit="words",
        units_per_row=1,
    )  # fmt: skip


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
