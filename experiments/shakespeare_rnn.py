"""Recurrent networks on tiny Shakespeare, classic and parallel ones, beside a GPT.

One block for all (norm, layer, norm, MLP), the same windows, steps and optimizer; only the layer
changes: LSTM (Hochreiter & Schmidhuber 1997), GRU (Cho et al. 2014), minGRU and minLSTM (Feng et
al. 2024), Griffin's (De et al. 2024), Mamba-2's (Dao & Gu 2024), attention. `--carried` reads the
text as streams instead, by truncated back-propagation through time.

Command: jaxgen train experiments/shakespeare_rnn.py --setting lstm [--carried]; gru, mingru, ...
Hardware and time: 2 CPU cores, see RESULTS.md; the settings for GPUs are not measured yet.
Expected: `validation/nats` on the last tenth of the text, in RESULTS.md. In nanoGPT's GPU setting
Feng et al. (2024, table 3) publish test losses of 1.548 (minGRU), 1.555 (minLSTM), 1.575 (Mamba)
and 1.547 (transformer).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp

from jaxgen.data.datasets import shakespeare_text
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.streams import Streams
from jaxgen.data.text import Blocks, Windows, fingerprint, unchanged
from jaxgen.data.tokenizers import CharacterTokenizer
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import full_pass, next_token_loss
from jaxgen.families.autoregressive.recurrent_architectures import residual_recurrent
from jaxgen.families.autoregressive.recurrent_decoder import recurrent_decoder
from jaxgen.families.autoregressive.recurrent_likelihood import carried, carried_loss, carried_pass
from jaxgen.families.autoregressive.sampling import GenerateRequest, text_sampler
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.nn.gated_linear_recurrence import GriffinRecurrence
from jaxgen.nn.mamba2 import Mamba2
from jaxgen.nn.minimal_recurrence import MinGRU, MinLSTM
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norm import RMSNorm
from jaxgen.nn.recurrent_cells import GRU, LSTM
from jaxgen.nn.rotary import rotary_angles
from jaxgen.nn.self_attention import SelfAttention
from jaxgen.training.optimizers import adamw, warmup_cosine

Layer = Literal["lstm", "gru", "mingru", "minlstm", "griffin", "mamba2", "attention"]


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    layer: Layer = "lstm"  # what stands in each block
    layers: int = 3  # blocks
    width: int = 128  # of the residual stream
    heads: int = 4  # of attention, Griffin's gates and Mamba-2
    context: int = 128  # characters seen at once
    batch: int = 16  # windows in a step
    carried: bool = False  # read streams, and remember from step to step
    steps: int = 1200  # training steps
    rate: float = 3e-3  # AdamW's peak learning rate
    dropout: float = 0.0  # on embeddings and what each layer adds
    bfloat16: bool = False  # compute in bfloat16, for GPUs; parameters stay float32
    evaluate_every: int = 300  # steps between validation scores, passages and checkpoints
    seed: int = 0  # initialization, data order, dropout, samples


_ALL: tuple[Layer, ...] = ("lstm", "gru", "mingru", "minlstm", "griffin", "mamba2", "attention")
_GPU = Config("lstm", 3, 384, 6, 256, 64, False, 5000, 1e-3, 0.2, True)
SETTINGS = {
    "default": Config(),
    "tiny": Config("mingru", 2, 32, 2, 16, 8, steps=20, evaluate_every=10),
    **{layer: Config(layer) for layer in _ALL},
    **{f"{layer}_gpu": replace(_GPU, layer=layer) for layer in _ALL},
}


def assets(config: Config) -> dict[str, bytes]:
    """What a run keeps, so that sampling reads no corpus and training goes on with no other."""
    text = shakespeare_text()
    tokenizer = CharacterTokenizer.from_text("".join(text))
    return {"characters.json": tokenizer.to_bytes(), "corpus.sha256": fingerprint(text)}


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-character prediction; all but attention also along streams."""
    tokenizer = CharacterTokenizer.from_bytes(kept["characters.json"])
    size, width, heads = tokenizer.vocabulary_size, config.width, config.heads
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32

    def data() -> dict[str, Any]:
        text = unchanged(shakespeare_text(), kept["corpus.sha256"])
        training, held_out = (tokenizer.encode(part) for part in text)
        windows = Shuffled(Windows(training, config.context), config.batch, config.seed)
        streams = Streams(training, config.context, config.batch)
        return {
            "train": streams if config.carried else windows,
            "blocks": Blocks(held_out, config.context), "stream": Streams(held_out, 256, 1),
        }  # fmt: skip

    layer: Any = {
        "lstm": partial(LSTM, width),
        "gru": partial(GRU, width),
        "mingru": partial(MinGRU, width, 2, 4),
        "minlstm": partial(MinLSTM, width, 2, 4),
        "griffin": partial(GriffinRecurrence, width, blocks=heads),
        "mamba2": partial(Mamba2, width, heads, states=64),
        "attention": partial(SelfAttention, heads, rotary=rotary_angles, query_key_norm=RMSNorm),
    }[config.layer]
    blocks = [partial(layer, dtype=dtype)] * config.layers
    network: Any = residual_recurrent(size, width, blocks, dropout=config.dropout, dtype=dtype)
    decoder = recurrent_decoder(network)
    if config.layer == "attention":
        network = Transformer(
            size, width, config.layers, layer, partial(MLP, 4 * width, bias=False), RMSNorm,
            tied=False, dropout=config.dropout, unroll=config.layers, dtype=dtype,
        )  # fmt: skip
        decoder = transformer_decoder(network, config.context)
    model = language_model(network)
    rate = warmup_cosine(config.rate, config.steps, config.steps // 10, final=config.rate / 10)
    optimizer = adamw(rate, b2=0.99, weight_decay=0.1, clip=1.0)
    loss = carried_loss(network) if config.carried else next_token_loss(model)
    request = GenerateRequest(tokens=300)
    score = carried_pass(network, "stream") if config.carried else full_pass(model, "blocks")
    return Experiment(
        init=lambda key, batch: (
            network.init(key, batch["tokens"][:, :-1])["params"],
            carried(network, config.batch) if config.carried else {},
        ),
        updates=[Update("text", loss, optimizer)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"generate": text_sampler(decoder, tokenizer)},
        evaluations=[Evaluation("validation", score, config.evaluate_every)],
        previews=[Preview("passage", "generate", request, config.evaluate_every)],
        best=Best("validation/nats"),
        checkpoint_every=config.evaluate_every,
        unit="characters",
        units_per_row=config.context,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
