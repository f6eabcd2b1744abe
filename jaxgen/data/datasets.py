"""Data sets by name, through TensorFlow Datasets, and the few that the experiments use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jaxgen.data import images, store
from jaxgen.data.shuffle import shuffled
from jaxgen.data.sources import Arrays, Computed, Item, Records, RecordSource, in_memory
from jaxgen.errors import UserError

Directory = (
    epath.PathLike | None
)  # where to look; None is TFDS_DATA_DIR, or else TFDS's own default


@dataclass(frozen=True)
class Entry:
    """A data set as `jaxgen datasets` lists it.

    examples, bytes: over all splits; None where not known.
    path: where it lies, or None where it isn't here.
    get: how to get it.
    """

    name: str
    what: str
    examples: int | None
    bytes: int | None
    path: epath.Path | None
    get: str


@dataclass(frozen=True)
class Speech:
    """One of the `speeches`."""

    text: str  # one long line
    year: int
    president: str
    party: str


_EMBEDDED = "it prepares itself when first used"
_SHAKESPEARE_ORDER = ("train", "validation", "test")

# What TFDS's own catalogue says of the sets that the experiments use.
_KNOWN = {
    "digits": ("8×8 handwritten digits, embedded in scikit-learn", 1_797, None),
    "mnist": ("28×28 handwritten digits", 70_000, 22_000_000),
    "cifar10": ("32×32 photographs of ten classes", 60_000, 139_000_000),
    "tiny_shakespeare": ("1,115,394 characters of plays, for language models", 3, 1_115_394),
    "speeches": ("State of the Union speeches, 1790 to 2021, for language models", 233, 10_784_836),
    "cmudict": ("133,784 English pronunciations, for letters to phonemes", 133_784, 8_528_164),
    "scripture": ("verses of the Bible in English and Spanish, to translate", 31_050, 10_876_455),
    "names": ("94,293 names of people in the United States", 94_293, None),
    "pydoc": ("Python functions of what is installed, with their documentation", None, None),
    "chorales": ("382 chorales by Bach in four voices, on two grids", 764, 515_373),
    "music21_chorales": ("chorales by Bach, as the package music21 brings them", None, None),
}


def load(name: str, split: str, data_dir: Directory = None) -> RecordSource:
    """The records of one split, with random access, as `Records` takes them.

    Pictures stay encoded, for `images.pixels`; all else is decoded by TFDS. Our own data sets
    are prepared first where they aren't yet; TFDS's too, where TensorFlow is installed.

    name: as TFDS writes it: "mnist", "glue/cola", "mnist:3.0.1".
    split: "train", "test", "train[:90%]", ...
    UserError names the cure where the data set or the split can't be had.
    """
    path = store.find(name, data_dir) or prepare(name, data_dir)
    builder = tfds.builder_from_directory(path)
    encoded = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    try:
        return builder.as_data_source(split, decoders=encoded or None)
    except NotImplementedError as error:
        raise UserError(
            f"the data set {name} in {path} is not in the array_record format, which random "
            f"access needs: `jaxgen datasets prepare {name}` with TFDS_DATA_DIR elsewhere"
        ) from error
    except (ValueError, KeyError) as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"the data set {name} has no split {split}, but {splits}") from error


def prepare(name: str, data_dir: Directory = None) -> epath.Path:
    """Makes a data set ready and returns its directory; nothing to do where it is already."""
    found = store.find(name, data_dir)
    if found:
        return found
    own = store.own(name)
    return store.prepare_own(own, data_dir) if own else store.prepare_tfds(name, data_dir)


def catalogue(data_dir: Directory = None) -> list[Entry]:
    """The data sets that the experiments use, here or not, then all others that are here."""
    here = dict(store.prepared(data_dir))
    entries = []
    for name in [*_KNOWN, *(name for name in here if name not in _KNOWN)]:
        what, examples, size = _KNOWN.get(name, ("", None, None))
        if name in here:
            description, examples, size = store.describe(here[name])
            what = what or description
        entries.append(Entry(name, what, examples, size, here.get(name), _how_to_get(name)))
    return entries


def _how_to_get(name: str) -> str:
    own = store.own(name)
    if own is None:
        return f"jaxgen datasets prepare {name}"
    if own.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
        package = getattr(own, "PACKAGE", None)
        return f"{f'pip install {package}' if package else 'nothing to do'}: {_EMBEDDED}"
    return f"{own.MANUAL_DOWNLOAD_INSTRUCTIONS} of TFDS_DATA_DIR; then {_EMBEDDED}"


def digits(data_dir: Directory = None) -> Arrays:
    """scikit-learn's 1,797 digits, in its order.

    "image" (8, 8, 1) float32 in [-1, 1], levels 0 .. 16 as level / 8 - 1; "label" int32.
    """
    items = in_memory(Records(load("digits", "train", data_dir), _digit))
    order = np.argsort(items.leaves["index"])
    return Arrays({name: items.leaves[name][order] for name in ("image", "label")})


def digits_split(data_dir: Directory = None) -> tuple[Arrays, Arrays]:
    """`digits` as (training, held-out): a fixed fifth of every class is held out, 359 in all."""
    items = digits(data_dir)
    held_out = np.zeros(len(items), bool)
    for label in range(10):
        members = np.flatnonzero(items.leaves["label"] == label)
        held_out[members[shuffled(label, len(members), 0, round(len(members) / 5))]] = True
    return (
        Arrays(items[np.flatnonzero(~held_out)]),
        Arrays(items[np.flatnonzero(held_out)]),
    )


def enlarged_digits(split: str, data_dir: Directory = None) -> Computed:
    """`digits_split`, "train" or "test", in CIFAR-10's shapes: for trials where that isn't here.

    Each pixel becomes a 4×4 square, and its level all three colours. "image" (32, 32, 3) float32 in
    [-1, 1], "label" int32. Raises `UserError` for another split.
    """
    parts = dict(zip(("train", "test"), digits_split(data_dir), strict=True))
    if split not in parts:
        raise UserError(f"the enlarged digits have no split {split}, but {', '.join(parts)}")
    return Computed(parts[split], _enlarged)


def mnist(split: str, data_dir: Directory = None) -> Records:
    """MNIST, "train" or "test": "image" (28, 28, 1) float32 in [-1, 1], "label" int32."""
    return Records(load("mnist", split, data_dir), _picture)


def cifar10(split: str, data_dir: Directory = None) -> Records:
    """CIFAR-10, "train" or "test": "image" (32, 32, 3) float32 in [-1, 1], "label" int32."""
    return Records(load("cifar10", split, data_dir), _picture)


def shakespeare_text(data_dir: Directory = None) -> tuple[str, str]:
    """tiny_shakespeare as (training, validation): nanoGPT's split, the first 90 % of characters.

    TFDS's training split is that too; its validation and test halve the rest.
    """
    parts = [_whole_text("tiny_shakespeare", split, data_dir) for split in _SHAKESPEARE_ORDER]
    text = "".join(parts)
    border = int(len(text) * 0.9)
    return text[:border], text[border:]


def speeches(
    president: str | None = None, data_dir: Directory = None
) -> tuple[tuple[Speech, ...], tuple[Speech, ...]]:
    """The State of the Union speeches as (training, held-out), each in the order of history.

    Whole speeches are held out: the third and every eighth after it, 29 of 233, so that each
    president of two terms is among the held-out ones.

    president: only this one's, of the same two parts, to fine-tune on; as "Theodore Roosevelt".
    Raises `UserError` for one who gave no speech, or has none in one of the parts.
    """
    records = load("speeches", "train", data_dir)
    spoken = [_speech(record) for record in records.__getitems__(range(len(records)))]
    names = sorted({speech.president for speech in spoken})
    if president is not None and president not in names:
        near = difflib.get_close_matches(president, names, 1) or [", ".join(names)]
        raise UserError(f"there is no speech of {president}, but of {near[0]}")
    training, held_out = (
        tuple(
            speech
            for index, speech in enumerate(spoken)
            if (index % 8 == 2) == held and president in (None, speech.president)
        )
        for held in (False, True)
    )
    if not training or not held_out:
        raise UserError(
            f"of the speeches of {president or 'all presidents'} {len(training)} are to train on "
            f"and {len(held_out)} held out: choose one with some of both"
        )
    return training, held_out


def _speech(record: Mapping[str, Any]) -> Speech:
    text, president, party = (record[name].decode() for name in ("text", "president", "party"))
    return Speech(text, int(record["year"]), president, party)


def _whole_text(name: str, split: str, data_dir: Directory) -> str:
    (record,) = load(name, split, data_dir).__getitems__([0])
    return record["text"].decode()


def _digit(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image": images.to_signed(images.pixels(record["image"]), highest=16),
        "label": np.int32(record["label"]),
        "index": record["index"],
    }


def _enlarged(item: Item) -> Item:
    return {**item, "image": item["image"].repeat(4, 1).repeat(4, 2).repeat(3, 3)}


def _picture(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image": images.to_signed(images.pixels(record["image"])),
        "label": np.int32(record["label"]),
    }
