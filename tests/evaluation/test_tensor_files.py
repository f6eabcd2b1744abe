import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.tensor_files import LEGACY_MAGIC, LEGACY_PROTOCOL, arrays_in

VALUES = np.arange(6, dtype=np.float32)


class Pickled(pickle.Pickler):
    """Writes tensors in PyTorch's words, without PyTorch: (storage, offset, shape, strides)."""

    def persistent_id(self, value):
        return value.words if isinstance(value, Storage) else None

    def reducer_override(self, value):
        if isinstance(value, Tensor):
            return Named("torch._utils", "_rebuild_tensor_v2"), (*value.parts, False, OrderedDict())
        return NotImplemented


class Storage:
    def __init__(self, key="0", items=6, kind="FloatStorage"):
        self.words = ("storage", Named("torch", kind), key, "cpu", items)


class Tensor:
    def __init__(self, shape, strides, offset=0, storage=None):
        self.parts = (storage or Storage(), offset, shape, strides)


class Named:
    """A global by its name alone, whether or not it can be imported here."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError("only its name is ever written")


def pickled(value):
    """By protocol 2, as PyTorch does; globals are written as text by hand."""
    stream = io.BytesIO()
    pickler = Pickled(stream, protocol=2)
    marks = {}

    # Each `Named` is first written as a string that nothing else holds, then put in its place.
    def standing(named):
        mark = f"<{named.module} {named.name}>"
        marks[mark] = named
        return mark

    def replaced(data):
        for mark, named in marks.items():
            text = mark.encode()
            word = b"X" + struct.pack("<I", len(text)) + text
            data = data.replace(word, f"c{named.module}\n{named.name}\n".encode())
        return data

    Named.__reduce__ = lambda self: standing(self)
    pickler.dump(value)
    return replaced(stream.getvalue())
