"""A vocabulary's special tokens by what they are for, in Hugging Face's words and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

Role = Literal["pad", "unk", "cls", "sep", "mask", "bos", "eos"]


@dataclass(frozen=True)
class SpecialTokens:
    """The texts of the special tokens; None where a vocabulary has no such token.

    One text may play several roles: GPT-2's <|endoftext|> begins and ends its documents.
    """

    pad: str | None = None  # fills rows up
    unk: str | None = None  # stands for what the vocabulary can't spell
    cls: str | None = None  # a row's first, whose vector stands for the whole row
    sep: str | None = None  # ends a sentence within a row
    mask: str | None = None  # hides a token that is to be guessed
    bos: str | None = None  # begins a text
    eos: str | None = None  # ends a text
    others: tuple[str, ...] = ()  # such as a chat's <|im_start|>

    @classmethod
    def from_configuration(cls, configuration: Mapping[str, Any]) -> SpecialTokens:
        """Those that a `tokenizer_config.json` names."""
        texts = {role: _text(configuration.get(f"{role}_token")) for role in _ROLES}
        others: list[str] = []
        for name in ("additional_special_tokens", "extra_special_tokens"):
            named = configuration.get(name) or ()
            # Newer files may say which token plays which role of their own.
            for token in named.values() if isinstance(named, Mapping) else named:
                others += [text for text in [_text(token)] if text]
        return cls(**texts, others=tuple(dict.fromkeys(others)))

    def to_configuration(self) -> dict[str, Any]:
        """What a `tokenizer_config.json` says of them."""
        configuration: dict[str, Any] = {
            f"{role}_token": text for role, text in self.roles().items()
        }
        if self.others:
            configuration["additional_special_tokens"] = list(self.others)
        return configuration

    def roles(self) -> dict[str, str]:
        """The text of each role that is played, in the order of the fields."""
        texts = {role: vars(self)[role] for role in _ROLES}
        return {role: text for role, text in texts.items() if text is not None}

    def texts(self) -> list[str]:
        """All of them, each once, in the order in which a vocabulary numbers them."""
        return list(dict.fromkeys([*self.roles().values(), *self.others]))


_ROLES = tuple(field.name for field in fields(SpecialTokens) if field.name != "others")

GPT2_SPECIAL = SpecialTokens(bos="<|endoftext|>", eos="<|endoftext|>")
BERT_SPECIAL = SpecialTokens(pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")


def _text(token: Any) -> str | None:
    """A token is written as its text, or as an object that holds it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None
