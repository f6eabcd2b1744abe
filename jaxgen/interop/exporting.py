"""A model trained here as a directory that Hugging Face's transformers open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxgen.data.subwords import TOKENIZER, SubwordTokenizer
from jaxgen.errors import UserError
from jaxgen.experiment import Params
from jaxgen.interop import hugging_face
from jaxgen.nn.low_rank import merged


def export(
    directory: str | os.PathLike[str],
    network: Any,
    params: Params,
    kept: Mapping[str, bytes],
    context: int | None = None,
) -> None:
    """Writes a trained network, its adapters merged, and the tokenizer that its run kept.

    kept: files' contents by name; without a tokenizer.json among them, none is written.
    context: how many tokens it was trained to see, which a rotary network doesn't say.

    Raises:
        UserError: for a model that transformers doesn't have, or a directory that exists.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"Only single networks can be exported, not {type(network).__name__}.")
    tokenizer = SubwordTokenizer.from_files(kept) if TOKENIZER in kept else None
    config = {} if context is None else {"max_position_embeddings": context}
    hugging_face.save(directory, network, merged(params), tokenizer, config)
