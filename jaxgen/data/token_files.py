"""Files of tokens, read where they are asked for: corpora larger than the memory."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer

from jaxgen.data.tokenizers import checked
from jaxgen.errors import UserError

_SUFFIXES = (".npy", ".bin")


@dataclass(frozen=True)
class TokenFile:
    """A long text's tokens on a local disk, as `Windows` and `Blocks` take them.

    Opened at the first look, in each process for itself: what pickles is the path. Raises
    `UserError` where there is no such file, or it holds anything but one row of integers.

    path: `.bin`, raw uint16, the lowest byte first, as nanoGPT's train.bin; or `.npy`, a
        one-dimensional array of any integer type.
    """

    path: str

    def __post_init__(self) -> None:
        if Path(self.path).suffix not in _SUFFIXES:
            raise UserError(f"the token file {self.path} must end in {' or '.join(_SUFFIXES)}")
        if not os.path.isfile(self.path):
            raise UserError(f"there is no token file {self.path} on this machine's disks")
        if not len(self.mapped):
            raise UserError(f"the token file {self.path} is empty: write it anew")

    def __len__(self) -> int:
        return len(self.mapped)

    def __getitem__(self, places: Int[np.ndarray, "*shape"]) -> Integer[np.ndarray, "*shape"]:
        return np.asarray(self.mapped[places])

    def __reduce__(self) -> tuple[type[TokenFile], tuple[str]]:
        return TokenFile, (self.path,)

    @cached_property
    def mapped(self) -> Integer[np.ndarray, "size"]:
        """All tokens, as a memory map that can't be written."""
        if self.path.endswith(".bin"):
            size = os.path.getsize(self.path)
            if size % 2:
                raise UserError(
                    f"the token file {self.path} has {size} bytes, which are no 16-bit tokens: it "
                    f"was cut, or has another type, which a .npy file would say"
                )
            # No memory can be mapped to an empty file.
            return np.memmap(self.path, "<u2", "r") if size else np.zeros(0, "<u2")
        try:
            tokens = np.load(self.path, mmap_mode="r")
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"the token file {self.path} is damaged: {error}") from error
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise UserError(
                f"the token file {self.path} holds {tokens.dtype}{list(tokens.shape)}, not one row "
                f"of integers: save it as such"
            )
        return tokens


def open_tokens(path: str, vocabulary_size: int) -> TokenFile:
    """A token file all of whose tokens the vocabulary has; `UserError` names the first it lacks.

    Reads the whole file once, where its type could hold other tokens.
    """
    file = TokenFile(path)
    checked(file.mapped, vocabulary_size, f"the token file {path}")
    return file


class TokenWriter:
    """Writes a `.npy` file of tokens piece by piece; `close` makes it whole.

    path: appears when it is whole; until then there is `path`.part.
    vocabulary_size: of up to 65,536 tokens are stored as uint16, of more as uint32.
    """

    def __init__(self, path: str, vocabulary_size: int) -> None:
        self.path = path
        self.size = 0
        self._vocabulary_size = vocabulary_size
        self._type = np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")
        self._file = io.BufferedWriter(io.FileIO(f"{path}.part", "w"))
        self._header()

    def append(self, tokens: Integer[np.ndarray, "size"]) -> None:
        """Writes tokens after the former; `UserError` for one that the vocabulary lacks."""
        if not len(tokens):
            return
        checked(tokens, self._vocabulary_size, f"what is written to {self.path}")
        self._file.write(tokens.astype(self._type).tobytes())
        self.size += len(tokens)

    def close(self) -> None:
        """Writes down how many tokens there are, and gives the file its name."""
        self._file.seek(0)
        self._header()
        self._file.close()
        os.replace(f"{self.path}.part", self.path)

    def discard(self) -> None:
        """Leaves no file behind; harmless after `close`."""
        self._file.close()
        Path(f"{self.path}.part").unlink(missing_ok=True)

    def _header(self) -> None:
        # numpy leaves room in a header for the first axis to grow: it stays equally long.
        described = {"descr": self._type.str, "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self._file, described)
