"""Token files hold what was written, are never read whole, and are refused where they are wrong."""

import pickle

import numpy as np
import pytest

from jaxgen.data.sources import Shuffled
from jaxgen.data.text import Blocks, Windows
from jaxgen.data.token_files import TokenFile, TokenWriter, open_tokens
from jaxgen.errors import UserError

TEXT = np.arange(1000) * 7 % 901


def stored(tmp_path, dtype):
    path = tmp_path / f"train.{'bin' if dtype == 'bin' else 'npy'}"
    TEXT.astype("<u2").tofile(path) if dtype == "bin" else np.save(path, TEXT.astype(dtype))
    return str(path)


@pytest.mark.parametrize("dtype", ["bin", np.uint16, np.int32, np.uint32, np.int64])
def test_items_of_a_file_are_those_of_its_tokens(tmp_path, dtype):
    file = open_tokens(stored(tmp_path, dtype), 901)
    assert len(file) == 1000 and isinstance(file.mapped, np.memmap)
    assert not file.mapped.flags.writeable
    for items in (Windows, Blocks):
        ours, wanted = items(file, 16), items(TEXT, 16)
        assert len(ours) == len(wanted)
        places = np.array([0, 5, len(ours) - 1])
        for name, leaf in ours[places].items():
            np.testing.assert_array_equal(leaf, wanted[places][name])
            assert type(leaf) is np.ndarray


def test_what_goes_to_a_worker_is_the_path(tmp_path):
    file = TokenFile(stored(tmp_path, np.uint16))
    assert len(file) and len(pickle.dumps(file)) < 300
    source = pickle.loads(pickle.dumps(Shuffled(Windows(file, 8), 4, 0)))
    wanted = Shuffled(Windows(TEXT, 8), 4, 0).batch(0, slice(0, 4))["tokens"]
    np.testing.assert_array_equal(source.batch(0, slice(0, 4))["tokens"], wanted)


@pytest.mark.parametrize(("vocabulary_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_a_writer_leaves_one_whole_numpy_array(tmp_path, vocabulary_size, dtype):
    path = tmp_path / "train.npy"
    writer = TokenWriter(str(path), vocabulary_size)
    pieces = [np.arange(size) for size in (3, 0, 1, 70_000 % 65_000, 12)]
    for piece in pieces:
        writer.append(piece)
    assert not path.exists()
    writer.close()
    writer.discard()
    found = np.load(path)
    assert found.dtype == dtype and writer.size == len(found)
    np.testing.assert_array_equal(found, np.concatenate(pieces))
    assert [file.name for file in tmp_path.iterdir()] == ["train.npy"]


def test_a_writer_names_a_token_outside_the_vocabulary_and_leaves_nothing(tmp_path):
    writer = TokenWriter(str(tmp_path / "train.npy"), 10)
    with pytest.raises(UserError, match=r"written to .*train\.npy has the token 10 at place 1"):
        writer.append(np.array([9, 10]))
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_a_token_outside_the_vocabulary_is_named_with_its_file(tmp_path):
    with pytest.raises(UserError, match=r"train\.bin has the token 896 at place 128, .*0 \.\. 895"):
        open_tokens(stored(tmp_path, "bin"), 896)


def test_files_that_are_none_are_named(tmp_path):
    for name, content, message in [
        ("a.bin", b"", "a.bin is empty"),
        ("b.bin", b"abc", "3 bytes, which are no 16-bit tokens"),
        ("c.npy", b"\x93NUMPY\x01\x00half", "damaged"),
        ("d.npy", b"", "damaged"),
        ("e.txt", b"text", r"must end in \.npy or \.bin"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            TokenFile(str(tmp_path / name))
    np.save(tmp_path / "f.npy", np.zeros((2, 3)))
    with pytest.raises(UserError, match=r"holds float64\[2, 3\], not one row of integers"):
        TokenFile(str(tmp_path / "f.npy"))
    np.save(tmp_path / "g.npy", np.array([{}, None]), allow_pickle=True)
    with pytest.raises(UserError, match="damaged"):
        TokenFile(str(tmp_path / "g.npy"))
    np.save(tmp_path / "whole.npy", TEXT)
    cut = (tmp_path / "whole.npy").read_bytes()[:-9]
    (tmp_path / "whole.npy").write_bytes(cut)
    with pytest.raises(UserError, match="damaged"):
        TokenFile(str(tmp_path / "whole.npy"))
    for name in ("nowhere.bin", "nowhere.npy"):
        with pytest.raises(UserError, match="there is no token file"):
            TokenFile(str(tmp_path / name))
