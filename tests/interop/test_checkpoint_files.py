"""Directories as Hugging Face's libraries write them, whole and damaged; no PyTorch."""

import json
import resource

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgen.errors import UserError
from jaxgen.interop.checkpoint_files import INDEX, Tensor, read_config, read_tensors, write

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "half": RANDOM.normal(size=(3, 4)).astype(np.float16),
    "brain": RANDOM.normal(size=(2, 5, 2)).astype(ml_dtypes.bfloat16),
    "single": RANDOM.normal(size=(6,)).astype(np.float32),
    "number": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


def tensor(name, array):
    return Tensor(name, array.shape, array.dtype, lambda rows=None: array)


TENSORS = [tensor(name, array) for name, array in ARRAYS.items()]


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of two files with an index."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "none"}')
    save_file({"half": ARRAYS["half"]}, path / "model-00001-of-00002.safetensors")
    save_file(
        {"brain": ARRAYS["brain"], "single": ARRAYS["single"]},
        path / "model-00002-of-00002.safetensors",
    )
    place = {"half": 1, "brain": 2, "single": 2}
    files = {name: f"model-{number:05}-of-00002.safetensors" for name, number in place.items()}
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return path


def same(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_tensors_are_read_by_name_from_one_file_or_several(folder, tmp_path):
    save_file(ARRAYS, tmp_path / "model.safetensors")
    for place, names in ((folder, ("half", "brain", "single")), (tmp_path, ARRAYS)):
        found = read_tensors(place)
        assert set(found) == set(names)
        for name, stored in found.items():
            assert (stored.shape, stored.dtype) == (ARRAYS[name].shape, ARRAYS[name].dtype)
            same(stored.read(), ARRAYS[name])
    same(found["brain"].read(slice(1, 2)), ARRAYS["brain"][1:2])
    same(found["brain"].read(slice(1, 999)), ARRAYS["brain"][1:])
    assert read_config(folder) == {"model_type": "none"}


def test_what_is_written_opens_in_the_librarys_reader(tmp_path):
    write(tmp_path / "new", {"width": 3}, TENSORS, {"tokenizer.json": b"{}"})
    assert sorted(path.name for path in tmp_path.glob("new/*")) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == {"width": 3}
    found = load_file(tmp_path / "new" / "model.safetensors")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        same(found[name], array)
    assert b'"format":"pt"' in (tmp_path / "new" / "model.safetensors").read_bytes()[:80]


def test_files_are_no_larger_than_asked(tmp_path):
    write(tmp_path / "new", {}, TENSORS, shard_bytes=48)
    index = json.loads((tmp_path / "new" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in ARRAYS.values())
    # 24 bytes, 40, 24 + 8 + 0
    assert sorted(set(index["weight_map"].values())) == [
        f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)
    ]
    for name, stored in read_tensors(tmp_path / "new").items():
        same(stored.read(), ARRAYS[name])
    for file in (tmp_path / "new").glob("*.safetensors"):
        assert sum(array.nbytes for array in load_file(file).values()) <= 48


def test_nothing_that_is_there_is_written_over(folder, tmp_path):
    with pytest.raises(UserError, match="checkpoint exists already"):
        write(folder, {}, TENSORS)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", {}, TENSORS)
    assert read_tensors(tmp_path / "empty").keys() == ARRAYS.keys()


def test_a_full_disk_leaves_nothing(tmp_path):
    big = tensor("big", np.zeros(2**18, np.float32))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(UserError, match=r"new can't be written .*nothing was left"):
            write(tmp_path / "new", {}, [*TENSORS, big])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_failure_between_two_tensors_leaves_nothing(tmp_path):
    def stop(rows=None):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new", {}, [*TENSORS, Tensor("x", (1,), np.dtype(np.float32), stop)])
    assert not list(tmp_path.iterdir())


def break_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


SECOND = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda f: (f / SECOND).unlink(), f"{INDEX} names {SECOND}, which is not in"),
        (
            lambda f: break_index(f, lambda places: places.update(lost=SECOND)),
            f"says that lost is in {SECOND}, but it isn't",
        ),
        (lambda f: (f / INDEX).write_text("{}"), "has no weight_map"),
        (lambda f: (f / INDEX).write_text("{"), "is no JSON"),
        (lambda f: (f / INDEX).write_text("[]"), "no JSON object"),
        (lambda f: (f / INDEX).unlink(), f"neither model.safetensors nor {INDEX}"),
        (
            lambda f: (f / SECOND).write_bytes((f / SECOND).read_bytes()[:-3]),
            f"{SECOND} can't be read .*fetch it again",
        ),
        (lambda f: (f / SECOND).write_bytes(b""), f"{SECOND} can't be read"),
        (lambda f: (f / SECOND).write_bytes(b"\x80" * 99), f"{SECOND} can't be read"),
    ],
)
def test_damage_is_named(folder, damage, said):
    damage(folder)
    with pytest.raises(UserError, match=said):
        read_tensors(folder)


def test_other_formats_are_named(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, a pickle"):
        read_tensors(tmp_path)
    header = b'{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    file = len(header).to_bytes(8, "little") + header + b"\0\0"
    (tmp_path / "model.safetensors").write_bytes(file)
    with pytest.raises(UserError, match=r"a in .* is stored as F8_E4M3"):
        read_tensors(tmp_path)


def test_a_directory_without_a_config_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_config(tmp_path)
    with pytest.raises(UserError, match="There is no directory"):
        read_config(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("nothing")
    with pytest.raises(UserError, match=r"config.json is no JSON"):
        read_config(tmp_path)


def test_a_file_that_disappears_while_it_is_read_is_named(folder):
    found = read_tensors(folder)
    (folder / SECOND).unlink()
    with pytest.raises(UserError, match=f"single can't be read from .*{SECOND}"):
        found["single"].read()
