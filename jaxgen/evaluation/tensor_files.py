"""Reads arrays from the files in which other frameworks save their weights, without them.

What PyTorch saves is a pickle, and a pickle is a program. It is run here by an unpickler that knows
three words, all of which only describe tensors; any other word ends the reading.
"""

from __future__ import annotations

import collections
import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import UserError

# Little-endian, as all of these files are on the machines that write them.
STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization's, the first pickle of five
LEGACY_PROTOCOL = 1001


class _Storage(NamedTuple):
    key: str
    dtype: str
    items: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def arrays_in(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The named arrays in the bytes of a file called `name`, as they are stored.

    Formats: `.safetensors`; `.npz`; else PyTorch's, a zip (since its version 1.6) or the five
    pickles before that. Raises `UserError` for anything but a flat mapping from names to arrays,
    and for bytes that don't hold together.
    """
    try:
        if name.endswith(".safetensors"):
            return _safetensors(data)
        if name.endswith(".npz"):
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        if data[:4] == b"PK\x03\x04":
            return _torch_zip(data)
        return _torch_legacy(data)
    except UserError as error:
        raise UserError(f"{name} is not a file of weights that can be read: {error}") from error
    # Damaged bytes can fail in every one of these readers' own ways; none of them is the user's
    # concern beyond what it says.
    except Exception as error:
        raise UserError(
            f"{name} is not a file of weights that can be read ({type(error).__name__}: {error}); "
            "it may be damaged or of another format: fetch it again."
        ) from error


def _safetensors(data: bytes) -> dict[str, np.ndarray]:
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    found = {}
    for name, entry in header.items():
        if entry["dtype"] not in SAFETENSORS:
            raise UserError(f"{name} has the type {entry['dtype']}, which numpy has not.")
        start, stop = entry["data_offsets"]
        values = np.frombuffer(body[start:stop], SAFETENSORS[entry["dtype"]])
        found[name] = values.reshape(entry["shape"])
    return found


def _torch_zip(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {entry.filename: entry for entry in archive.infolist()}
        pickled = [
            member for member in members if member.count("/") == 1 and member.endswith(".pkl")
        ]
        if len(pickled) != 1 or not pickled[0].endswith("/data.pkl"):
            raise UserError("it is a zip without the one data.pkl that PyTorch writes.")
        root = pickled[0].removesuffix("data.pkl")

        def member(name: str) -> bytes:
            # PyTorch stores without compressing; a small file must not unpack to a huge one.
            if members[root + name].compress_type != zipfile.ZIP_STORED:
                raise UserError(f"its part {name} is compressed, which PyTorch never does.")
            return archive.read(root + name)

        if root + "byteorder" in members and member("byteorder") != b"little":
            raise UserError("it was written on a big-endian machine.")
        tensors = _tensors(_Unpickler(io.BytesIO(member("data.pkl"))).load())
        keys = {tensor.storage.key for tensor in tensors.values()}
        contents = {key: member(f"data/{key}") for key in keys}
    return {name: _array(name, tensor, contents) for name, tensor in tensors.items()}


def _torch_legacy(data: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(data)
    magic, protocol, system, loaded, keys = (_Unpickler(stream).load() for _ in range(5))
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        raise UserError("it is a pickle, but not one of PyTorch's.")
    if not system["little_endian"]:
        raise UserError("it was written on a big-endian machine.")
    tensors = _tensors(loaded)
    sizes = {t.storage.key: np.dtype(t.storage.dtype).itemsize for t in tensors.values()}
    contents = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        contents[key] = stream.read(count * sizes[key])
    return {name: _array(name, tensor, contents) for name, tensor in tensors.items()}


def _tensors(loaded: Any) -> dict[str, _Tensor]:
    # dict.items rather than loaded.items: a pickle may give an object attributes of its own.
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in dict.items(loaded)
    ):
        raise UserError("it holds something else than a mapping from names to tensors.")
    return dict(dict.items(loaded))


def _array(name: str, tensor: _Tensor, contents: Mapping[str, bytes]) -> np.ndarray:
    """The tensor as an array of its own, after a check that all of it lies in its storage."""
    storage, offset, shape, strides = tensor
    values = np.frombuffer(contents[storage.key], storage.dtype)
    if len(values) != storage.items:
        raise UserError(f"{len(values)} numbers are stored for {name} instead of {storage.items}.")
    if len(shape) != len(strides) or min((*shape, *strides, offset)) < 0:
        raise UserError(f"the tensor {name} has no shape that makes sense.")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # Strides of 0 would make a few bytes into an array of any size.
    if math.prod(shape) and (last >= len(values) or math.prod(shape) > len(values)):
        raise UserError(f"the tensor {name} reaches beyond what is stored for it.")
    steps = tuple(stride * values.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps).copy()


class _Word:
    """What a pickle gets for a function's name: it can be called, and nothing else.

    Without a `__dict__`, so that a pickle's instruction to set attributes finds no place.
    """

    __slots__ = ("_call",)

    _call: Callable[..., _Tensor]

    def __init__(self, call: Callable[..., _Tensor]) -> None:
        object.__setattr__(self, "_call", call)

    def __setattr__(self, name: str, value: object) -> None:
        raise UserError("it tries to change what it is read with.")

    def __call__(self, *arguments: Any) -> _Tensor:
        return self._call(*arguments)


def _rebuilt(
    storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> _Tensor:  # further: whether gradients are wanted, hooks
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(number) is int for number in numbers):
        raise UserError("it describes a tensor in a way that PyTorch doesn't.")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise UserError("it describes a parameter in a way that PyTorch doesn't.")
    return tensor


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries and descriptions of tensors; refuses every other word."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Word(_rebuilt)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Word(_parameter)
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise UserError(f"it asks for {module}.{name}, and only tensors are read from it.")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, items, *view = pid
        if kind != "storage" or dtype not in STORAGES.values() or any(view):
            raise UserError("it describes a storage in a way that PyTorch doesn't any more.")
        return _Storage(str(key), dtype, int(items))
