"""Data sets by name: our own prepare themselves, TFDS's are read without TensorFlow."""

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxgen.data import datasets, store
from jaxgen.data.sources import Shuffled
from jaxgen.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's own directories."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path


def test_digits_are_scikit_learns_exactly(own_sets):
    items, original = datasets.digits(own_sets), load_digits()
    image, label = items.leaves["image"], items.leaves["label"]
    assert (image.dtype, label.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal((image[..., 0] + 1) * 8, original.images)
    np.testing.assert_array_equal(label, original.target)


def test_the_held_out_fifth_is_fixed_whole_and_stratified(own_sets):
    train, held_out = datasets.digits_split(own_sets)
    assert (len(train), len(held_out)) == (1438, 359)
    together = np.concatenate([train.leaves["image"], held_out.leaves["image"]])
    original = load_digits().images[..., None].astype(np.float32) / 8 - 1

    def rows(images):
        return sorted(image.tobytes() for image in images)

    assert rows(together) == rows(original)
    classes = np.bincount(held_out.leaves["label"])
    assert (abs(classes - np.bincount(load_digits().target) / 5) <= 0.5).all()
    again = datasets.digits_split(own_sets)[1]
    np.testing.assert_array_equal(again.leaves["image"], held_out.leaves["image"])
    # Scores of one release are compared with the next one's on the same pictures.
    assert held_out.leaves["label"][:12].tolist() == [2, 3, 6, 8, 0, 5, 9, 2, 4, 6, 8, 9]


def test_enlarged_digits_are_the_split_in_the_shapes_of_cifar(own_sets):
    for part, split in zip(datasets.digits_split(own_sets), ("train", "test"), strict=True):
        items = datasets.enlarged_digits(split, own_sets)
        item = items[np.array([3, 5])]
        assert len(items) == len(part) and item["image"].shape == (2, 32, 32, 3)
        assert item["image"].dtype == np.float32
        np.testing.assert_array_equal(item["label"], part.leaves["label"][[3, 5]])
        # Every pixel of every square, in every colour.
        for row, column, colour in ((0, 0, 0), (3, 2, 1), (1, 3, 2)):
            np.testing.assert_array_equal(
                item["image"][:, row::4, column::4, colour], part.leaves["image"][[3, 5], ..., 0]
            )
    with pytest.raises(UserError, match="no split test2, but train, test"):
        datasets.enlarged_digits("test2", own_sets)


SCRIPT = """
import sys
from jaxgen.data import datasets, images, loader, sources, text, tokenizers
items = datasets.digits(sys.argv[1])
for name in sys.argv[2:]:
    import numpy
    datasets.mnist("test")[numpy.arange(3)]
    datasets.shakespeare_text()
print(len(items), "tensorflow" in sys.modules, "cv2" in sys.modules)
"""


def run_script(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_processes_may_prepare_at_once_and_say_nothing(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: run_script(str(tmp_path / "new")), range(2)))
    for run in runs:
        assert (run.stdout, run.stderr) == ("1797 False False\n", "")
    assert os.listdir(tmp_path / "new") == ["digits"]


def test_real_sets_are_read_without_tensorflow_or_noise(prepared_sets, own_sets):
    run = run_script(str(own_sets), "real", TFDS_DATA_DIR=str(prepared_sets))
    assert (run.stdout, run.stderr) == ("1797 False False\n", "")


def test_jax_stays_out_of_what_the_workers_read():
    code = (
        "import sys, jaxgen.data.sources, jaxgen.data.text, jaxgen.data.tokenizers, "
        "jaxgen.data.images, jaxgen.data.datasets, jaxgen.data.masking, jaxgen.data.preferences, "
        "jaxgen.data.token_corpus, jaxgen.data.documents, jaxgen.data.pairs; "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_read_only_directory_is_left_alone(tmp_path):
    """Even by root, whom the mode of a directory doesn't stop."""
    directory = tmp_path / "readonly"
    directory.mkdir()
    directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        path = datasets.prepare("digits", directory)
        assert os.listdir(directory) == []
    finally:
        directory.chmod(stat.S_IRWXU)
    assert str(path).startswith(str(tmp_path / "cache"))
    assert datasets.prepare("digits", directory) == path


def test_half_a_data_set_is_prepared_again(tmp_path, own_sets):
    datasets.prepare("digits", own_sets)
    half = tmp_path / "tfds" / "digits" / "1.0.0"
    half.mkdir(parents=True)
    shutil.copy(own_sets / "digits" / "1.0.0" / "features.json", half)
    assert len(datasets.digits()) == 1797


def test_real_pictures(prepared_sets):
    items = datasets.mnist("test", prepared_sets)
    assert len(items) == 10_000
    batch = Shuffled(items, 6, 0).batch(0, slice(0, 6))
    assert batch["image"].shape == (6, 28, 28, 1)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.float32, np.int32)
    assert (batch["image"].min(), batch["image"].max()) == (-1, 1)
    assert items[np.arange(5)]["label"].shape == (5,)


def test_shakespeare_is_nanogpts_split(prepared_sets):
    train, validation = datasets.shakespeare_text(prepared_sets)
    assert (len(train), len(validation)) == (1_003_854, 111_540)
    assert train.startswith("First Citizen:\nBefore we proceed any further, hear me speak.")
    assert len(set(train + validation)) == 65


def test_the_catalogue_says_what_is_here_and_how_to_get_the_rest(own_sets):
    datasets.prepare("digits", own_sets)
    entries = {entry.name: entry for entry in datasets.catalogue(own_sets)}
    assert {"digits", "mnist", "cifar10", "tiny_shakespeare"} <= entries.keys()
    assert str(entries["digits"].path).startswith(str(own_sets))
    assert entries["digits"].examples == 1797
    assert entries["digits"].bytes > 100_000
    assert entries["cifar10"].path is None
    assert entries["cifar10"].get == "jaxgen datasets prepare cifar10"


def test_the_catalogue_finds_other_sets_and_configurations(tmp_path, own_sets):
    source = datasets.prepare("digits", own_sets)
    for place in ("mine/2.0.0", "mine/10.0.0", "glue/cola/1.0.0", "glue/sst2/1.0.0"):
        shutil.copytree(source, tmp_path / "tfds" / place)
    found = {entry.name: entry for entry in datasets.catalogue()}
    assert str(found["mine"].path).endswith("10.0.0")
    assert found["glue/cola"].examples == 1797
    assert len(datasets.load("glue/cola", "train")) == 1797
    assert str(store.find("mine:2.0.0")).endswith("2.0.0")
    assert len(datasets.load("mine", "train[:10]")) == 10
    with pytest.raises(UserError, match="glue/cola, glue/sst2"):
        datasets.load("glue", "train")


def test_a_set_that_is_not_here_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"jaxgen\[prepare\].*datasets prepare cifar10.*TFDS_DATA"):
        datasets.load("cifar10", "train")


def test_a_failing_preparation_is_one_sentence(monkeypatch):
    """With TensorFlow there but, say, no network."""

    class Builder:
        data_dir, url_infos = "", None

        def download_and_prepare(self):
            raise ConnectionError("no route to host\nand forty more lines")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("tensorflow_datasets.builder", lambda *_, **__: Builder())
    with pytest.raises(UserError, match=r"ConnectionError: no route to host.*network") as error:
        datasets.prepare("cifar10")
    assert "\n" not in str(error.value)


def test_without_network_it_is_said_at_once(monkeypatch):
    """TFDS's own retries would take minutes."""

    class Builder:
        url_infos = {"https://data.example/archive.zip": None}  # noqa: RUF012

    def no_name(host, port):
        raise OSError(f"can't find {host}")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("tensorflow_datasets.builder", lambda *_, **__: Builder())
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("socket.getaddrinfo", no_name)
    with pytest.raises(UserError, match=r"can't find data\.example.*check the network"):
        datasets.prepare("cifar10")


def test_unknown_names_and_splits_are_named(own_sets):
    with pytest.raises(UserError, match=r"no data set digit: did you mean digits\?"):
        datasets.load("digit", "train")
    with pytest.raises(UserError, match="no data set qqqqqqqq: `jaxgen datasets`"):
        datasets.prepare("qqqqqqqq")
    with pytest.raises(UserError, match="no split test, but train"):
        datasets.load("digits", "test", own_sets)
