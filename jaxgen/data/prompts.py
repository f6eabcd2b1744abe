"""Prompts by the file: a line each, or JSON objects, or whatever comes through a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from etils import epath

from jaxgen.errors import UserError


def read_prompts(path: str) -> list[str]:
    """The prompts of a file: its lines, or, in a `.jsonl`, each line's "prompt".

    path: "-" reads lines from standard input.

    Raises:
        UserError: without a file or a prompt, for text that isn't UTF-8, for an empty line and for
            one that is no such object; it names the line.
    """
    name = "standard input" if path == "-" else path
    if path == "-":
        content = sys.stdin.buffer.read()
    elif not epath.Path(path).is_file():
        raise UserError(f"There is no file of prompts {path}.")
    else:
        content = epath.Path(path).read_bytes()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"Line {line} of {name} is not UTF-8: convert it, for example by `iconv -f ISO-8859-1 "
            "-t UTF-8`."
        ) from error
    if not lines:
        raise UserError(f"{name} holds no prompt: give at least one line.")
    prompts = []
    for number, line in enumerate(lines, 1):
        prompt = _of_object(line, number, name) if path.endswith(".jsonl") else line
        if not prompt:
            raise UserError(f"Line {number} of {name} is empty: a prompt needs a character.")
        prompts.append(prompt)
    return prompts


def said(path: str) -> Iterator[str]:
    """What somebody says, line by line as `read_prompts` has it; from a terminal as it is typed."""
    if path != "-" or not sys.stdin.isatty():
        yield from read_prompts(path)
        return
    while line := _typed():
        yield line


def _typed() -> str:
    try:
        return input("> ")
    except EOFError:
        return ""


def _of_object(line: str, number: int, name: str) -> str:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise UserError(f'Line {number} of {name} is no JSON object with a "prompt", a text.')
    return str(found["prompt"])
