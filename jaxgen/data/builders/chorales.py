"""Bach's chorales as TFDS data sets: the customary one, and one of the package music21."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jaxgen.data.music_xml import sampled_parts
from jaxgen.errors import UserError

_VOICES = 4
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # in the files, and of TFDS
_FILES = {
    "": ("Jsb16thSeparated.json", "jsb-chorales-16th-separated.json"),
    "_quarter": ("jsb-chorales-quarter.json",),
}
_STEPS_PER_QUARTER = 4

_FEATURES = {"pitches": tfds.features.Tensor(shape=(None, _VOICES), dtype=np.int16)}


class Chorales(tfds.core.GeneratorBasedBuilder):
    """JSB Chorales: 229, 76 and 77 pieces, in splits "train", "validation" and "test".

    "pitches" (steps, 4) int16 are MIDI's, from soprano to bass, -1 being a rest: what sounds at
    each sixteenth, in the key that Bach wrote it in. Splits "train_quarter", "validation_quarter"
    and "test_quarter" have the same pieces in another order and another form, that of
    Boulanger-Lewandowski et al. 2012: at each quarter, moved to C, all that
    sounds, in rising order, and -1 where fewer than four pitches do.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "JSB-Chorales-dataset."}  # noqa: RUF012  (TFDS's own field)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "lay Jsb16thSeparated.json and jsb-chorales-quarter.json of "
        "https://github.com/czhuang/JSB-Chorales-dataset in the folder downloads/manual/chorales"
    )
    # TFDS would find it through importlib_resources, which it needs without asking for it.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Four-voice chorales by J. S. Bach, as pitches on a grid of time.",
            features=tfds.features.FeaturesDict(_FEATURES),
            homepage="https://github.com/czhuang/JSB-Chorales-dataset",
            disable_shuffling=True,  # in the files' order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        directory = dl_manager.manual_dir / self.name
        return {
            f"{split}{grid}": self._generate_examples(file, pieces, ordered=bool(grid))
            for grid, names in _FILES.items()
            for file, whole in [self._read(directory, names)]
            for split, pieces in whole.items()
        }

    def _read(
        self, directory: epath.Path, names: Sequence[str]
    ) -> tuple[epath.Path, dict[str, Any]]:
        file = next((directory / name for name in names if (directory / name).exists()), None)
        if file is None:
            raise UserError(f"{directory} holds no {names[0]}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        try:
            whole = json.loads(file.read_text(encoding="utf-8"))
            return file, {split: whole[name] for name, split in _SPLITS.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} has no pieces under train, valid and test: fetch it anew"
            ) from error

    def _generate_examples(
        self, file: epath.Path, pieces: Any, ordered: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, piece in enumerate(pieces):
            try:
                steps = [sorted(step) if ordered else list(step) for step in piece]
                # -1, or a NaN of other versions of the file, is a rest.
                whole = [[int(p) if p >= 0 else -1 for p in step] for step in steps]
                if not whole or not all(_is_step(step, ordered) for step in whole):
                    raise ValueError
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"piece {index} of {file} is not made of steps of "
                    f"{'at most ' if ordered else ''}four pitches: fetch it anew"
                ) from error
            padded = [step + [-1] * (_VOICES - len(step)) for step in whole]
            yield index, {"pitches": np.array(padded, np.int16)}


class Music21Chorales(tfds.core.GeneratorBasedBuilder):
    """The chorales of the package music21, where that is installed, in the splits of `Chorales`.

    All of its corpus/bach/*.mxl that have four parts, sampled at each sixteenth and at each
    quarter, repeats played once, in Bach's own keys on both grids and in the same order. A piece
    that is another one's, perhaps in another key, counts once. Of those left, in the order of their
    files' names and counted from 0, numbers 4, 10, 16, ... are for the test, and the one after each
    for validation.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "music21's corpus."}  # noqa: RUF012  (TFDS's own field)
    PACKAGE = "music21"  # brings its files
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Four-voice chorales by J. S. Bach, as music21 brings them.",
            features=tfds.features.FeaturesDict(_FEATURES),
            homepage="https://www.music21.org",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        parts: dict[str, list[np.ndarray]] = {split: [] for split in _SPLITS.values()}
        for index, piece in enumerate(_without_repetition(self._pieces())):
            parts[{4: "test", 5: "validation"}.get(index % 6, "train")].append(piece)
        return {
            f"{split}{grid}": self._generate_examples(pieces, every, ordered=bool(grid))
            for grid, every in (("", 1), ("_quarter", _STEPS_PER_QUARTER))
            for split, pieces in parts.items()
        }

    @staticmethod
    def corpus() -> epath.Path | None:
        """Where music21 keeps its Bach; None where it isn't installed. Runs nothing of it."""
        spec = importlib.util.find_spec("music21")
        if spec is None or not spec.submodule_search_locations:
            return None
        return epath.Path(next(iter(spec.submodule_search_locations))) / "corpus" / "bach"

    def _pieces(self) -> Iterator[np.ndarray]:
        directory = self.corpus()
        files = sorted(directory.glob("*.mxl")) if directory else []
        if not files:
            raise UserError(f"no chorales of music21 are here: `pip install {self.PACKAGE}`")
        for file in files:
            grid = sampled_parts(file.read_bytes(), _STEPS_PER_QUARTER, str(file))
            if grid.shape[1] == _VOICES and len(grid):
                yield grid

    def _generate_examples(
        self, pieces: Sequence[np.ndarray], every: int, ordered: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, piece in enumerate(pieces):
            steps = piece[::every]
            yield index, {"pitches": _in_rising_order(steps) if ordered else steps}


def _without_repetition(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    seen = set()
    for piece in pieces:
        # The lowest note is what two transpositions differ by.
        lowest = piece[piece >= 0].min(initial=127)
        shape = np.where(piece >= 0, piece - lowest, -1).tobytes()
        if shape not in seen:
            seen.add(shape)
            yield piece


def _in_rising_order(steps: np.ndarray) -> np.ndarray:
    chords = [sorted({int(pitch) for pitch in step if pitch >= 0}) for step in steps]
    return np.array([chord + [-1] * (_VOICES - len(chord)) for chord in chords], np.int16)


def _is_step(pitches: Iterable[int], ordered: bool) -> bool:
    size = len(list(pitches))
    fits = size <= _VOICES if ordered else size == _VOICES
    return fits and all(-1 <= pitch <= 127 for pitch in pitches)
