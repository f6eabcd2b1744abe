"""Hugging Face's directories: a config.json, and weights in safetensors files, one or several.

Reading opens a file for one tensor at a time, writing holds one tensor at a time.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxgen.errors import UserError

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor whose values are fetched only when they are read.

    read: `read()` fetches them all, `read(rows)` those of a slice of the first axis.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[..., np.ndarray]

    @property
    def bytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What the directory's config.json says.

    Raises:
        UserError: if there is none, or it is no JSON object.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise UserError(f"There is no directory {folder}: give one with a Hugging Face checkpoint.")
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no config.json: it is no checkpoint of Hugging Face's.")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; `UserError` where there is something else."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): fetch it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: fetch it again.")
    return found


def read_tensors(directory: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The directory's tensors by name, file by file in the order in which they are stored.

    Only the files' headers are read here.

    Raises:
        UserError: for weights that aren't there, an index that names what isn't there, and a file
            that is damaged.
    """
    folder = Path(directory)
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if (folder / ONE_FILE).is_file():
        return _in_file(folder / ONE_FILE)
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise UserError(
            f"{folder} has its weights in {pickles[0]}, a pickle, which could run any program: "
            f"save them as {ONE_FILE}."
        )
    raise UserError(f"{folder} has neither {ONE_FILE} nor {INDEX}: fetch the weights.")


def _indexed(folder: Path) -> dict[str, Tensor]:
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise UserError(
            f"{folder / INDEX} has no weight_map from tensors to files: fetch it again."
        )
    found: dict[str, Tensor] = {}
    for file in sorted(set(index.values())):
        if not (folder / file).is_file():
            raise UserError(f"{INDEX} names {file}, which is not in {folder}: fetch it too.")
        stored = _in_file(folder / file)
        promised = {name for name, place in index.items() if place == file}
        for name in sorted(promised - stored.keys()):
            raise UserError(
                f"{INDEX} says that {name} is in {file}, but it isn't: fetch both again."
            )
        found |= {name: tensor for name, tensor in stored.items() if name in promised}
    return found


def _opened(path: Path) -> safe_open:
    # Not mapped into memory: a file that shrinks meanwhile would end the process.
    return safe_open(path, framework="np", backend="pread")


def _in_file(path: Path) -> dict[str, Tensor]:
    found = {}
    try:
        with _opened(path) as file:
            for name in file.offset_keys():
                stored = file.get_slice(name)
                dtype = stored.get_dtype()
                if dtype not in DTYPES:
                    raise UserError(
                        f"{name} in {path} is stored as {dtype}, which isn't read here."
                    )
                shape = tuple(stored.get_shape())
                found[name] = Tensor(name, shape, DTYPES[dtype], partial(_values, path, name))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} can't be read ({error}): fetch it again.") from error
    return found


def _values(path: Path, name: str, rows: slice | None = None) -> np.ndarray:
    try:
        with _opened(path) as file:
            if rows is None:
                return file.get_tensor(name)
            stored = file.get_slice(name)
            return stored[slice(*rows.indices(stored.get_shape()[0]))]
    except (SafetensorError, OSError) as error:
        raise UserError(f"{name} can't be read from {path} ({error}).") from error


def write(
    directory: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: Sequence[Tensor],
    files: Mapping[str, bytes] | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a new directory that Hugging Face's libraries open; all of it or nothing.

    Args:
        config: for config.json.
        tensors: read one after the other, each once.
        files: what else lies there, by name, such as tokenizer.json.
        shard_bytes: the most that a file's tensors take together; a larger tensor has a file of its
            own.

    Raises:
        UserError: if there is something at `directory` already, or it can't be written (a full
            disk); then nothing is left behind.
    """
    folder = Path(directory)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists already: give a new directory.")
    partial_folder = folder.parent / f".{folder.name}.partial-{secrets.token_hex(4)}"
    try:
        partial_folder.mkdir(parents=True)
        _write_text(partial_folder / "config.json", config)
        for name, content in (files or {}).items():
            (partial_folder / name).write_bytes(content)
        _write_tensors(partial_folder, tensors, shard_bytes)
        partial_folder.replace(folder)
    except OSError as error:
        raise UserError(
            f"{folder} can't be written ({error.strerror}), and nothing was left there."
        ) from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _write_tensors(folder: Path, tensors: Sequence[Tensor], shard_bytes: int) -> None:
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(each.bytes for each in shards[-1]) + tensor.bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        _write_file(folder / ONE_FILE, shards[0])
        return
    place: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / file, shard)
        place |= {tensor.name: file for tensor in shard}
    total = sum(tensor.bytes for tensor in tensors)
    _write_text(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": place})


def _write_file(path: Path, tensors: Sequence[Tensor]) -> None:
    # By hand: the library's own writer wants all of a file's tensors in memory.
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.bytes
        header[tensor.name] = {
            "dtype": kinds[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    words = json.dumps(header, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)  # what follows begins at a multiple of 8
    with path.open("wb") as file:
        file.write(len(words).to_bytes(8, "little") + words)
        for tensor in tensors:
            values = tensor.read()
            if (values.shape, values.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(f"{tensor.name} was announced as {tensor.shape} {tensor.dtype}")
            # As bytes, because bfloat16 arrays don't show theirs.
            file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def _write_text(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
