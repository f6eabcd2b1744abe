"""Documents one after another, from files or data sets that are larger than the memory."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from jaxgen.data.sources import RecordSource
from jaxgen.errors import UserError


def json_lines(*paths: epath.PathLike) -> Iterator[dict[str, Any]]:
    """The JSON objects of files with one in each line, `.gz` too; blank lines are left out.

    Raises `UserError` for a file that is missing or cut, and for a line that holds anything else.
    """
    for path in paths:
        for number, line in enumerate(_lines(epath.Path(path)), start=1):
            if line.strip():
                try:
                    found = json.loads(line)
                except ValueError:  # UnicodeDecodeError too
                    found = None
                if not isinstance(found, dict):
                    raise UserError(f"line {number} of {path} is no JSON object: {line[:60]!r}")
                yield found


def records(source: RecordSource, at_once: int = 256) -> Iterator[Mapping[str, Any]]:
    """The records of a data set, as `jaxgen.data.datasets.load` returns it, in order."""
    for start in range(0, len(source), at_once):
        yield from source.__getitems__(range(start, min(start + at_once, len(source))))


def texts(documents: Iterable[Mapping[str, Any]], field: str = "text") -> Iterator[str]:
    """The text of each document, which lies in `field`; bytes are taken for UTF-8.

    Raises `UserError` for a document that has none there.
    """
    for number, document in enumerate(documents):
        text = document.get(field)
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        if not isinstance(text, str):
            raise UserError(
                f"document {number} has no text in its field {field!r}, but the fields "
                f"{', '.join(map(repr, document)) or 'of none'}: name the right one"
            )
        yield text


def _lines(file: epath.Path) -> Iterator[bytes]:
    if not file.is_file():
        raise UserError(f"there is no file {file} with JSON lines")
    with file.open("rb") as stored:
        try:
            yield from gzip.GzipFile(fileobj=stored) if file.suffix == ".gz" else stored
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file} can't be read to its end: {error}") from error
