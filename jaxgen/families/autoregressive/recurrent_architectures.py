"""Recurrent language models as they are put together in practice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.families.autoregressive.recurrent import RecurrentLanguage
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norm import RMSNorm
from jaxgen.nn.recurrent_stack import RecurrentStack

Layers = Sequence[Callable[..., nn.Module]]


def plain_recurrent(
    vocabulary: int, width: int, layers: Layers, *, dropout: float = 0.0, variational: bool = False
) -> RecurrentLanguage:
    """Layers on top of one another and nothing between them (Zaremba et al. 2014).

    width: of the tokens' vectors.
    layers: each makes one, as `recurrence.py` describes them.
    dropout: on the tokens' vectors and on what each layer writes; none on what it remembers.
    variational: the same numbers at all steps (Gal & Ghahramani 2016).
    """
    stack = partial(RecurrentStack, layers, dropout=dropout, variational=variational)
    return RecurrentLanguage(vocabulary, width, stack, dropout=dropout, variational=variational)


def residual_recurrent(
    vocabulary: int, width: int, layers: Layers, *, dropout: float = 0.0, dtype: Any = jnp.float32
) -> RecurrentLanguage:
    """A transformer's blocks with recurrent layers in attention's place (De et al. 2024, figure 2).

    Each layer, `width` wide, is followed by a position-wise network four times as wide; both read
    what RMSNorm makes of the residual stream, and add to it.
    """
    stack = partial(
        RecurrentStack,
        layers,
        norm=RMSNorm,
        mlp=partial(MLP, hidden=4 * width, bias=False),
        residual=True,
        dropout=dropout,
        dtype=dtype,
    )
    return RecurrentLanguage(vocabulary, width, stack, dropout=dropout, dtype=dtype)
