"""Names that nobody has: a GRU writes them letter by letter, in seconds.

The smallest of the language models here, after Karpathy's char-rnn (2015): the women's first names
of the United States' census of 1990. They come with the package `names`: pip install names.

Command: jaxgen train experiments/names_rnn.py; then jaxgen sample RUN --count 20
Hardware and time: 2 CPU cores, see RESULTS.md.
Expected: `held_out/nats` a letter, ends among them, on every tenth name, in RESULTS.md.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxgen.data.names import names
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.text import Packed
from jaxgen.data.tokenizers import CharacterTokenizer
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import full_pass, next_token_loss
from jaxgen.families.autoregressive.recurrent_architectures import plain_recurrent
from jaxgen.families.autoregressive.recurrent_decoder import recurrent_decoder
from jaxgen.families.autoregressive.sampling import GenerateRequest, text_sampler
from jaxgen.nn.recurrent_cells import GRU
from jaxgen.training.optimizers import adamw, warmup_cosine


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    kind: str = "female"  # whose names: female, male or last
    layers: int = 1  # GRUs on top of one another
    width: int = 128  # of letters' vectors, and of each layer
    room: int = 64  # letters in a row, of several names
    batch: int = 16  # rows in a step
    steps: int = 300  # training steps
    rate: float = 1e-2  # AdamW's peak learning rate
    dropout: float = 0.2  # on letters' vectors and on what each layer writes
    evaluate_every: int = 50  # steps between scores, names and checkpoints
    seed: int = 0  # initialization, data order, dropout, samples


SETTINGS = {
    "default": Config(),
    "tiny": Config(width=16, batch=8, steps=6, evaluate_every=3),
}


def assets(config: Config) -> dict[str, bytes]:
    """The letters, among them the line break that stands before and after a name."""
    letters = "".join(name for part in names(config.kind) for name in part)
    return {"letters.json": CharacterTokenizer.from_text("\n" + letters).to_bytes()}


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-letter prediction, each name by itself."""
    tokenizer = CharacterTokenizer.from_bytes(kept["letters.json"])

    def data() -> dict[str, Any]:
        training, held_out = (
            Packed([tokenizer.encode(f"\n{name}\n") for name in part], config.room)
            for part in names(config.kind)
        )
        return {"train": Shuffled(training, config.batch, config.seed), "held_out": held_out}

    layers = [partial(GRU, config.width)] * config.layers
    network = plain_recurrent(
        tokenizer.vocabulary_size, config.width, layers, dropout=config.dropout
    )
    model = language_model(network)
    rate = warmup_cosine(config.rate, config.steps, config.steps // 10)
    sampler = text_sampler(
        recurrent_decoder(network), tokenizer, ends=tokenizer.encode("\n").tolist()
    )
    request = GenerateRequest(tokens=24, count=20, temperature=0.8)
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("names", next_token_loss(model), adamw(rate, b2=0.99, clip=1.0))],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"write": sampler},
        evaluations=[Evaluation("held_out", full_pass(model, "held_out"), config.evaluate_every)],
        previews=[Preview("names", "write", request, config.evaluate_every)],
        best=Best("held_out/nats"),
        checkpoint_every=config.evaluate_every,
        unit="letters",
        units_per_row=config.room,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
