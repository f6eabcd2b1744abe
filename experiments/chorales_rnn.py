"""Bach's chorales frame by frame, by an LSTM: the temporal-convolution paper's benchmark.

Polyphonic music of Boulanger-Lewandowski et al. (2012): 88 keys at each quarter note, independent
given the past. Bai et al. (2018) score -log p of a frame, the sum over its keys, over all frames of
all pieces but the first of each. `jaxgen datasets` says how to get the chorales.

Command: jaxgen train experiments/chorales_rnn.py [--setting gru]
Hardware and time: 2 CPU cores, see RESULTS.md.

Expected, `test/nats` a frame, in RESULTS.md. Bai et al. (2018, table 1): LSTM 8.45, GRU 8.43, TCN
8.10; keys with their mean probabilities, whatever came before: 11.06.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from jaxgen.data.chorales import HIGHEST, LOWEST, chorales_frames
from jaxgen.data.frames import FramePieces, transposed
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.experiment import Best, Evaluation, Experiment, Model, Preview, Update
from jaxgen.families.autoregressive.frame_sampling import FramesRequest, frame_sampler
from jaxgen.families.autoregressive.frames import RecurrentFrames, frame_loss, frame_pass
from jaxgen.nn.recurrent_cells import GRU, LSTM
from jaxgen.nn.recurrent_stack import RecurrentStack
from jaxgen.training.optimizers import adamw, warmup_cosine

KEYS = HIGHEST - LOWEST + 1


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    gru: bool = False  # a GRU in the LSTM's place
    layers: int = 1  # on top of one another
    width: int = 256  # of each
    room: int = 96  # frames of a piece, in training: of longer ones the beginning
    batch: int = 16  # pieces in a step
    steps: int = 1500  # training steps
    rate: float = 6e-3  # AdamW's peak learning rate
    weight_decay: float = 0.01  # of the kernels
    dropout: float = 0.1  # on frames and on what each layer writes, the same at all steps
    recurrent_dropout: float = 0.2  # on what a layer remembers, the same at all steps
    furthest: int = 0  # semitones that pieces are moved by in training; they come in C
    pieces: int = 0  # so many of each part; 0 is all
    evaluate_every: int = 100  # steps between scores, music and checkpoints
    seed: int = 0  # initialization, data order, dropout, samples


SETTINGS = {
    "default": Config(),
    "gru": replace(Config(), gru=True),
    "tiny": Config(width=16, room=24, batch=8, steps=6, pieces=8, evaluate_every=3),
}


def build(config: Config) -> Experiment:
    """Next-frame prediction; all of a piece's past counts."""

    def data() -> dict[str, Any]:
        training, dev, test = (part[: config.pieces or None] for part in chorales_frames())
        moved = partial(transposed, furthest=config.furthest) if config.furthest else None
        items = FramePieces(training, config.room)
        return {
            "train": Shuffled(items, config.batch, config.seed, moved),
            "validation": FramePieces(dev), "test": FramePieces(test),
            "keys": np.concatenate(training).mean(0), "pieces": test,
        }  # fmt: skip

    layer = partial(
        GRU if config.gru else LSTM, config.width, recurrent_dropout=config.recurrent_dropout
    )
    stack = partial(
        RecurrentStack, [layer] * config.layers, dropout=config.dropout, variational=True
    )
    network = RecurrentFrames(KEYS, stack, config.dropout)

    def independent(_: Model, data: Mapping[str, Any], key: Any) -> dict[str, float]:
        """Every key by its share of the training frames."""
        share = np.clip(data["keys"], 1e-6, 1 - 1e-6)
        frames = np.concatenate([piece[1:] for piece in data["pieces"]])
        nats = -(frames * np.log(share) + (1 - frames) * np.log1p(-share)).sum(1)
        return {"nats": float(nats.mean())}

    rate = warmup_cosine(config.rate, config.steps, config.steps // 10)
    optimizer = adamw(rate, weight_decay=config.weight_decay, clip=1.0)
    every = config.evaluate_every
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["frames"])["params"], {}),
        updates=[Update("frames", frame_loss(network), optimizer, ema=0.99)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"play": frame_sampler(network, lambda: chorales_frames()[2], LOWEST)},
        evaluations=[
            Evaluation("validation", frame_pass(network, "validation"), every),
            Evaluation("test", frame_pass(network, "test")),
            Evaluation("independent", independent),
        ],
        previews=[Preview("chorale", "play", FramesRequest(), every)],
        best=Best("validation/nats"),
        checkpoint_every=every,
        unit="frames",
        units_per_row=config.room,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
