"""The pickles are put together by hand from their instructions, so that no PyTorch is needed."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.tensor_files import LEGACY_MAGIC, LEGACY_PROTOCOL, arrays_in

VALUES = np.arange(6, dtype=np.float32)
BYTES = VALUES.tobytes()


def word(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value):
    return b"J" + struct.pack("<i", value)


def row(*values):
    return b"(" + b"".join(values) + b"t"


def storage(kind="FloatStorage", key="0", items=6):
    words = (text("storage"), word("torch", kind), text(key), text("cpu"), integer(items))
    return row(*words) + b"Q"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, stored=None):
    hooks = word("collections", "OrderedDict") + b")R"
    sizes, steps = (row(*map(integer, numbers)) for numbers in (shape, strides))
    parts = row(stored or storage(), integer(offset), sizes, steps, b"\x89", hooks)
    return word("torch._utils", "_rebuild_tensor_v2") + parts + b"R"


def mapping(**values):
    pairs = b"".join(text(name) + value for name, value in values.items())
    return b"\x80\x02" + word("collections", "OrderedDict") + b")R(" + pairs + b"u."


def zipped(pickled, contents=BYTES, compression=zipfile.ZIP_STORED, root="archive"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        archive.writestr(f"{root}/byteorder", "little")
        archive.writestr(f"{root}/data/0", contents)
    return stream.getvalue()


def legacy(pickled, contents=BYTES):
    heads = [LEGACY_MAGIC, LEGACY_PROTOCOL, {"protocol_version": 1001, "little_endian": True}]
    start = b"".join(pickle.dumps(head, protocol=2) for head in heads)
    keys = pickle.dumps(["0"], protocol=2)
    return start + pickled + keys + struct.pack("<q", len(contents) // 4) + contents


@pytest.mark.parametrize("form", [zipped, legacy])
def test_tensors_come_out_as_they_lie_in_their_storage(form):
    found = arrays_in(
        form(
            mapping(
                whole=tensor(),
                turned=tensor((3, 2), (1, 3)),
                part=tensor((2,), (2,), offset=1),
                number=tensor((), (), offset=5),
                empty=tensor((0, 4), (4, 1)),
            )
        ),
        "weights.pth",
    )
    square = VALUES.reshape(2, 3)
    expected = {"whole": square, "turned": square.T, "part": VALUES[1::2][:2]}
    expected |= {"number": VALUES[5], "empty": np.zeros((0, 4), np.float32)}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == np.float32 and found[name].flags.owndata


def test_a_zips_root_may_have_any_name():
    assert arrays_in(zipped(mapping(a=tensor()), root="weights"), "w.pth")["a"].shape == (2, 3)


class Wicked:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize("form", [zipped, legacy])
@pytest.mark.parametrize(
    "pickled, said",
    [
        (pickle.dumps(Wicked(), protocol=2), "asks for (posix|nt).system"),
        (pickle.dumps({"a": Wicked()}, protocol=4), "asks for (posix|nt).system"),
        (b"\x80\x02" + word("builtins", "eval") + row(text("1")) + b"R.", "builtins.eval"),
        (b"\x80\x02" + word("torch", "load") + b".", "asks for torch.load"),
        (b"\x80\x02" + word("torch._utils", "_rebuild_tensor_v2.x") + b".", "asks for"),
        # What it is read with can't be changed, nor called on other things.
        (
            b"\x80\x02" + word("torch._utils", "_rebuild_tensor_v2") + b"N}(" + text("_call")
            + text("x") + b"u\x86b.",
            "tries to change",
        ),
        (
            b"\x80\x02" + word("torch._utils", "_rebuild_tensor_v2")
            + row(*[row()] * 4) + b"R.",
            "in a way that PyTorch doesn't",
        ),
        (mapping(a=text("words")), "something else than a mapping"),
        (b"\x80\x02" + tensor() + b".", "something else than a mapping"),
        (mapping(a=tensor((2, 4), (3, 1))), "a reaches beyond"),
        (mapping(a=tensor((2, 3), (3, 1), offset=1)), "a reaches beyond"),
        (mapping(a=tensor((999, 999), (0, 0))), "a reaches beyond"),
        (mapping(a=tensor((2,), (-1,), offset=5)), "no shape that makes sense"),
        (mapping(a=tensor((2, 3), (3,))), "no shape that makes sense"),
        (mapping(a=tensor(stored=storage(items=7))), "instead of 7"),
        (mapping(a=tensor(stored=storage(key="../1"))), "KeyError"),
        (mapping(a=tensor(stored=storage("ComplexFloatStorage"))), "ComplexFloatStorage"),
    ],
)  # fmt: skip
def test_anything_but_tensors_is_refused(form, pickled, said):
    with pytest.raises(UserError, match=said):
        arrays_in(form(pickled), "weights.pth")


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "EOFError"),
        (b"\x89PNG", "UnpicklingError"),
        (zipped(mapping(a=tensor()))[:-30], "BadZipFile"),
        (zipped(mapping(a=tensor()), compression=zipfile.ZIP_DEFLATED), "compressed"),
        (zipped(mapping(a=tensor()), BYTES[:-1]), "ValueError"),
        (legacy(mapping(a=tensor()))[:-4], "instead of 6"),
        (pickle.dumps(1) * 5, "not one of PyTorch's"),
    ],
)
def test_damaged_files_are_refused_by_name(data, said):
    with pytest.raises(UserError, match=rf"weights.pth is not a file of weights.*{said}"):
        arrays_in(data, "weights.pth")


def test_a_zip_that_is_not_pytorchs_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(UserError, match="without the one data"):
        arrays_in(stream.getvalue(), "weights.pth")


def test_npz_and_safetensors_hold_the_same():
    arrays = {"a": VALUES.reshape(3, 2), "b": np.array([1, 2], np.int64)}
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    header = {
        "__metadata__": {"format": "np"},
        "a": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]},
        "b": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
    }
    words = json.dumps(header).encode()
    body = arrays["a"].tobytes() + arrays["b"].tobytes()
    tensors = struct.pack("<Q", len(words)) + words + body
    for name, data in (("w.npz", stream.getvalue()), ("w.safetensors", tensors)):
        found = arrays_in(data, name)
        assert found.keys() == arrays.keys()
        for key, value in arrays.items():
            np.testing.assert_array_equal(found[key], value)
            assert found[key].dtype == value.dtype


def test_pickles_inside_an_npz_are_refused():
    stream = io.BytesIO()
    np.savez(stream, a=np.array([Wicked()], object))
    with pytest.raises(UserError, match="allow_pickle"):
        arrays_in(stream.getvalue(), "w.npz")
