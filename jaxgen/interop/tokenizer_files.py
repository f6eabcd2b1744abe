"""Whether a tokenizer is a checkpoint's own: sizes, and the numbers of special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgen.data.subwords import TOKENIZER, SubwordTokenizer
from jaxgen.errors import UserError


def read_tokenizer(
    directory: Path, config: Mapping[str, Any], vocabulary: int
) -> SubwordTokenizer | None:
    """What tokenizer.json holds, or None where there is none.

    config: the checkpoint's config.json, which has the numbers of special tokens.
    vocabulary: how many tokens the network knows.

    Raises:
        UserError: if it is another vocabulary's.
    """
    if not (directory / TOKENIZER).is_file():
        return None
    tokenizer = SubwordTokenizer.from_directory(directory)
    check(tokenizer, config, vocabulary, str(directory))
    return tokenizer


def check(
    tokenizer: SubwordTokenizer, config: Mapping[str, Any], vocabulary: int, checkpoint: str
) -> None:
    """Raises a `UserError` unless the tokenizer is of the network that `config` describes.

    A vocabulary that is padded (T5's, Qwen's) may be larger than the tokenizer's.
    """
    tokenizer.within(vocabulary, checkpoint)
    roles = tokenizer.special.roles()
    for name, entry in config.items():
        role = name.removesuffix("_token_id")
        numbers = _numbers(entry) if name.endswith("_token_id") else []
        for number in numbers:
            if tokenizer.tokenizer.id_to_token(number) is None:
                raise UserError(
                    f"{checkpoint} has {name} = {number}, and its tokenizer, of "
                    f"{tokenizer.vocabulary_size} tokens, has no token of that number: use the "
                    f"{TOKENIZER} that lies with the checkpoint"
                )
        if numbers and role in roles:
            own = tokenizer.tokenizer.token_to_id(roles[role])
            if own not in numbers:
                raise UserError(
                    f"{checkpoint} has {name} = {entry}, and its tokenizer's {role} token "
                    f"{roles[role]} is number {own}: use the {TOKENIZER} that lies with the "
                    "checkpoint"
                )


def special_numbers(tokenizer: SubwordTokenizer) -> dict[str, int]:
    """What config.json says of a tokenizer's special tokens: eos_token_id and others."""
    named = tokenizer.special.roles()
    roles = [role for role in ("bos", "eos", "pad") if role in named]
    return {f"{role}_token_id": tokenizer.token(named[role]) for role in roles}


def _numbers(entry: Any) -> list[int]:
    numbers = entry if isinstance(entry, list) else [entry]
    # Some configs say -1 for none.
    return [number for number in numbers if isinstance(number, int) and number >= 0]
