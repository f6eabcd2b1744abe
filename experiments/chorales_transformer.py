"""Bach's chorales, four voices as events: composed, and written below a given melody.

A small transformer (Qwen 3's blocks) reads soprano, alto, tenor and bass of each sixteenth in turn,
a pitch that begins or the sign that the last one is held, as DeepBach (Hadjeres et al. 2017) and
BachBot (Liang et al. 2017) write them, in every key that keeps the voices within their ranges.
`jaxgen datasets` says how to get the chorales.

Command: jaxgen train experiments/chorales_transformer.py [--setting gpu]
         jaxgen sample RUN compose --beats 48; jaxgen sample RUN harmonize --midi MELODY.mid

Hardware and time: 2 CPU cores, see RESULTS.md; `gpu` not measured yet.

Expected, in RESULTS.md: `test/nats_per_step`, of all four voices of a sixteenth; `composed/` beside
the training pieces, and so `bach/`, the test's own; `harmonized/kept`, melodies that stay, is 1.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxgen.artifacts import Piece
from jaxgen.data.chorales import chorales_text, chorales_voices
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.text import fingerprint, unchanged
from jaxgen.data.voice_events import Moved, VoiceEvents, scored_rows, whole_pieces
from jaxgen.evaluation.music import harmony_scores, music_scores
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive import music_sampling, music_scoring
from jaxgen.families.autoregressive.architectures import qwen3
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.transformer import muon_matrices
from jaxgen.families.autoregressive.voice_composer import Composer
from jaxgen.nn.periodic_embedding import PeriodicEmbedding
from jaxgen.training.optimizers import muon, warmup_cosine

LONGEST = 16_384  # tokens of a piece that is drawn


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    layers: int = 4  # transformer blocks
    heads: int = 4  # of 32 numbers each
    width: int = 128  # of the residual stream
    context: int = 512  # tokens seen at once: 32 beats
    batch: int = 8  # rows in a step
    steps: int = 800  # training steps
    rate: float = 3e-3  # AdamW's peak learning rate
    muon_rate: float = 0.02  # Muon's
    weight_decay: float = 0.1  # of matrices and embeddings
    dropout: float = 0.1  # on embeddings and what each layer adds
    first: int = 0  # pieces of each part to use, so many of the first; 0 is all
    drawn: int = 24  # pieces to compose, and melodies to harmonize, for the scores
    beats: int = 24  # of each of those
    bfloat16: bool = False  # compute in bfloat16, for GPUs; parameters stay float32
    evaluate_every: int = 200  # steps between scores on development pieces, and checkpoints
    seed: int = 0  # initialization, data order, keys, dropout, samples


SETTINGS = {
    "default": Config(),
    "tiny": Config(1, 2, 32, context=64, steps=6, first=3, drawn=2, beats=4, evaluate_every=3),
    "gpu": Config(6, 8, 256, context=1024, batch=32, steps=3000, dropout=0.2, bfloat16=True),
}


def assets(config: Config) -> dict[str, bytes]:
    """What tokens mean, and which pieces there were."""
    training, development, test = chorales_voices()
    events = VoiceEvents.of_pieces(training, [*development, *test])
    return {"events.json": events.to_bytes(), "chorales.sha256": fingerprint(chorales_text())}


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-event prediction; samplers compose and harmonize."""
    events = VoiceEvents.from_bytes(kept["events.json"])

    def data() -> dict[str, Any]:
        unchanged(chorales_text(), kept["chorales.sha256"])
        training, development, test = (part[: config.first or None] for part in chorales_voices())
        items = whole_pieces(training, events, config.context)
        return {
            "train": Shuffled(items, config.batch, config.seed, Moved(events, config.context)),
            "development": scored_rows(development, events, config.context),
            "test": scored_rows(test, events, config.context),
            "voices": test,
            "music": [Piece.of_grid(piece) for piece in training],
        }

    network = qwen3(
        events.vocabulary_size, config.width, config.layers, config.heads, config.heads,
        hidden=8 * config.width // 3, depth=32, rotary_base=10_000.0, tied=True,
    ).clone(
        positions=partial(PeriodicEmbedding, events.per_beat), dropout=config.dropout,
        unroll=config.layers, dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
    )  # fmt: skip
    # Through a window, longer pieces are written as the rows of the training were read.
    windowed = network.clone(attention=partial(network.attention, window=config.context))
    composer = Composer(transformer_decoder(windowed, LONGEST), events)
    model = language_model(network)
    slow, fast = (
        warmup_cosine(peak, config.steps, min(100, config.steps // 10), final=peak / 10)
        for peak in (config.rate, config.muon_rate)
    )
    optimizer = muon(
        fast, muon_matrices, adam_learning_rate=slow, b2=0.99, weight_decay=config.weight_decay,
        adam_weight_decay=config.weight_decay, clip=1.0,
    )  # fmt: skip

    by_step = partial(music_scoring.likelihood_by_step, model, voices=events.voices, end=events.end)
    asked = {"count": config.drawn, "beats": config.beats}
    composed = music_scoring.composed_scored(composer, "music", music_scores, **asked)
    harmonized = music_scoring.harmonized_scored(composer, "voices", harmony_scores, **asked)
    bach = music_scoring.given_scored(composer, "voices", "music", music_scores, **asked)
    request = music_sampling.ComposeRequest(beats=config.beats)
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("transformer", next_token_loss(model), optimizer)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers=music_sampling.voice_samplers(composer, lambda: chorales_voices()[2]),
        evaluations=[
            Evaluation("development", by_step("development"), config.evaluate_every),
            Evaluation("test", by_step("test")),
            Evaluation("composed", composed),
            Evaluation("harmonized", harmonized),
            Evaluation("bach", bach),
        ],
        previews=[Preview("piece", "compose", request, config.evaluate_every)],
        best=Best("development/nats_per_step"),
        checkpoint_every=config.evaluate_every,
        unit="tokens",
        units_per_row=config.context,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
