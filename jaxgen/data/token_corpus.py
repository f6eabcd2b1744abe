"""A corpus as a directory of token files: made once, in constant memory, and read by experiments.

It holds train.npy and validation.npy, the tokenizer's files, and corpus.json, which says what
was written. nanoGPT's train.bin and val.bin are read as well; docs/data.md says how to make one.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from jaxgen.data.sources import Shuffled
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.text import Blocks, Windows
from jaxgen.data.token_files import TokenFile, TokenWriter, open_tokens
from jaxgen.errors import UserError

_DESCRIPTION = "corpus.json"
_PARTS = {
    "train": ("train.npy", "train.bin"),
    "validation": ("validation.npy", "validation.bin", "val.npy", "val.bin"),
}


@dataclass(frozen=True, eq=False)
class TokenCorpus:
    """Documents one after another, each followed by an end-of-text token.

    train, validation: as `Windows` and `Blocks` take them, a file or an array.
    """

    train: TokenFile | Integer[np.ndarray, "training"]
    validation: TokenFile | Integer[np.ndarray, "held_out"]
    tokenizer: SubwordTokenizer

    def sources(self, context: int, batch_size: int, seed: int) -> dict[str, Any]:
        """As an experiment's data: "train" in batches; "windows" and "blocks" that are held out."""
        return {
            "train": Shuffled(Windows(self.train, context), batch_size, seed),
            "windows": Windows(self.validation, context),
            "blocks": Blocks(self.validation, context),
        }

    def kept(self, vocabulary_size: int, model: str, weights: str = "") -> dict[str, bytes]:
        """What a run keeps of it: the tokenizer's files, and what tells that it is the same.

        Raises `UserError` where the model's vocabulary doesn't hold the tokenizer's tokens, or the
        directory of weights that it goes on from has another tokenizer.
        """
        self.tokenizer.within(vocabulary_size, model)
        if weights:
            self.tokenizer.unchanged(
                SubwordTokenizer.from_directory(weights).fingerprint, f"the weights in {weights}"
            )
        return {**self.tokenizer.files(), _DESCRIPTION: json.dumps(self._described()).encode()}

    def unchanged(self, kept: Mapping[str, bytes]) -> TokenCorpus:
        """The same corpus; `UserError` unless it is as large, and cut by the tokenizer, as kept."""
        if (known := json.loads(kept[_DESCRIPTION])) != self._described():
            raise UserError(
                f"the corpus has changed since this run began ({known['train']:,} tokens to train "
                f"on, now {len(self.train):,}, or another tokenizer): put the old one back, or "
                "train anew"
            )
        return self

    def _described(self) -> dict[str, Any]:
        sizes = {"train": len(self.train), "validation": len(self.validation)}
        return {**sizes, "tokenizer": self.tokenizer.fingerprint}


def read_corpus_directory(directory: str) -> TokenCorpus:
    """The token files and the tokenizer of a directory.

    Files that `write_corpus_directory` has made were checked then; others are read once, to see
    that the tokenizer's vocabulary has all of their tokens.
    Raises `UserError` where one is missing, or they don't belong together.
    """
    place = Path(directory).expanduser()
    tokenizer = SubwordTokenizer.from_directory(place)
    described = _described(place)
    if "tokenizer" in described:
        tokenizer.unchanged(described["tokenizer"], f"the token files in {directory}")
    parts = {}
    for part, names in _PARTS.items():
        paths = [place / name for name in names if (place / name).is_file()]
        if not paths:
            raise UserError(
                f"there is no {names[0]} or {names[-1]} in {directory}: docs/data.md says how to "
                f"make them"
            )
        written = described.get(part, {})
        file = TokenFile(str(paths[0]))
        if (written.get("file"), written.get("tokens")) != (paths[0].name, len(file)):
            open_tokens(file.path, tokenizer.vocabulary_size)
        parts[part] = file
    return TokenCorpus(**parts, tokenizer=tokenizer)


def write_corpus_directory(
    directory: str,
    documents: Iterable[str],
    tokenizer: SubwordTokenizer,
    hold_out_every: int = 200,
    end: str | None = None,
    at_once: int = 256,
) -> None:
    """Tokenizes documents into a new directory, which `read_corpus_directory` opens.

    No more than `at_once` documents are held in memory, and they are tokenized on all cores.
    Special tokens that a document spells are ordinary text; documents without text are left out.

    hold_out_every: of so many documents the last goes to validation, the others to training.
    end: the text of the token written after each document; None is the tokenizer's `eos`.
    Raises `UserError` where the directory has token files already, the tokenizer has no such
    token, or there are too few documents to hold any out.
    """
    if hold_out_every < 2 or at_once < 1:
        raise UserError(
            f"hold_out_every must be at least 2 and at_once 1, not {hold_out_every} and {at_once}"
        )
    place = Path(directory).expanduser()
    for name in itertools.chain(*_PARTS.values()):
        if (place / name).exists():
            raise UserError(f"{directory} has a {name} already: give another directory")
    last = tokenizer.special_token("eos") if end is None else tokenizer.token(end)
    place.mkdir(parents=True, exist_ok=True)
    writers = {
        part: TokenWriter(str(place / names[0]), tokenizer.vocabulary_size)
        for part, names in _PARTS.items()
    }
    try:
        written = _write(writers, documents, tokenizer, last, hold_out_every, at_once)
        for part, writer in writers.items():
            if not writer.size:
                raise UserError(
                    f"of {sum(written.values())} documents none is left for {part}: lower "
                    f"hold_out_every, {hold_out_every}, or give more"
                )
        tokenizer.save(place)
        described: dict[str, Any] = {"tokenizer": tokenizer.fingerprint}
        for part, writer in writers.items():
            writer.close()
            described[part] = {
                "file": os.path.basename(writer.path),
                "documents": written[part],
                "tokens": writer.size,
            }
        (place / _DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")
    finally:
        for writer in writers.values():
            writer.discard()


def _write(
    writers: dict[str, TokenWriter],
    documents: Iterable[str],
    tokenizer: SubwordTokenizer,
    last: int,
    hold_out_every: int,
    at_once: int,
) -> dict[str, int]:
    """How many documents each part has got."""
    written = dict.fromkeys(writers, 0)
    remaining = iter(documents)
    while batch := list(itertools.islice(remaining, at_once)):
        for tokens in tokenizer.encode_ordinary(batch):
            if len(tokens):
                held_out = (sum(written.values()) + 1) % hold_out_every == 0
                part = "validation" if held_out else "train"
                writers[part].append(np.append(tokens, np.int32(last)))
                written[part] += 1
    return written


def _described(place: Path) -> dict[str, Any]:
    path = place / _DESCRIPTION
    if not path.exists():
        return {}
    try:
        described = json.loads(path.read_text())
    except ValueError:
        described = None
    if not isinstance(described, dict):
        raise UserError(f"{path} is damaged: delete it, and all tokens will be checked instead")
    return described
