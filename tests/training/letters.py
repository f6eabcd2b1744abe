"""A tiny language model that the command line's tests train and sample."""

from dataclasses import dataclass

import numpy as np

from jaxgen.data.sources import Shuffled
from jaxgen.data.text import Windows
from jaxgen.data.tokenizers import CharacterTokenizer
from jaxgen.experiment import Experiment, Update
from jaxgen.families.autoregressive.architectures import gpt2
from jaxgen.families.autoregressive.chat import chat_sampler
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.sampling import text_sampler
from jaxgen.training.optimizers import adamw


@dataclass(frozen=True)
class Config:
    """The numbers."""

    steps: int = 2  # training steps
    chat: bool = False  # answer instead, each answer ended by an h
    seed: int = 0  # of everything


SETTINGS = {"default": Config()}


def build(config: Config) -> Experiment:
    """Eight letters in a ring."""
    tokenizer = CharacterTokenizer("abcdefgh")
    network = gpt2(8, 16, 1, 2, 16)
    decoder = transformer_decoder(network, 16)
    asked = lambda messages: tokenizer.encode("".join(text for _, text in messages))
    chat = chat_sampler(decoder, tokenizer, asked, end=7)
    tokens = np.tile(np.arange(8), 20)
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("letters", next_token_loss(language_model(network)), adamw(0.1))],
        data={"train": Shuffled(Windows(tokens, 12), 8, config.seed)},
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"sample": chat if config.chat else text_sampler(decoder, tokenizer)},
    )
