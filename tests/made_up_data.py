"""Small data sets in the layout of the real ones, made up: for where those aren't."""

import json
from pydoc_data.topics import topics

import pytest

from jaxgen.data.builders.names import Names
from jaxgen.data.builders.pydoc import Pydoc


def write_speeches(directory, speeches):
    """(name, year, text) each, into a TFDS directory's place for what is downloaded by hand."""
    package = directory / "downloads" / "manual" / "speeches" / "package" / "data"
    package.mkdir(parents=True)
    for name, year, text in speeches:
        speech = {"year": year, "name": name, "party": "none", "text": text}
        file = package / f"{year}_{name.lower().replace(' ', '_')}_n.json"
        file.write_text(json.dumps(speech), encoding="utf-8")
        file.with_suffix(".txt").write_text(speech["text"])


def python_speeches():
    """Python's own documentation as speeches: sixteen, half of them Theodore Roosevelt's."""
    texts = [topics[name][:1500] for name in sorted(topics)[:16]]
    names = ["Theodore Roosevelt"] * 8 + ["Ada Lovelace"] * 8
    return [
        (name, 1900 + place, text)
        for place, (name, text) in enumerate(zip(names, texts, strict=True))
    ]


def write_dictionary(directory):
    """240 words in the layout of npm's package of the CMU dictionary, some with two ways."""
    package = directory / "downloads" / "manual" / "cmudict" / "package" / "data"
    package.mkdir(parents=True)
    sounds = {"A": "AE1", "B": "B", "D": "D", "E": "EH1", "N": "N", "O": "OW0", "S": "S", "T": "T"}
    letters = sorted(sounds)
    lines = ["PHOTOGRAPHY  F AH0 T AA1 G R AH0 F IY0"]
    for number in range(240):
        word = "".join(letters[number // 8**place % 8] for place in range(3))
        lines.append(f"{word}  {' '.join(sounds[letter] for letter in word)}")
        if number % 7 == 0:
            lines.append(f"{word}(1)  {' '.join(sounds[letter] for letter in reversed(word))}")
    (package / "dict.txt").write_text("\n".join(lines) + "\n")


def write_verses(directory):
    """Made-up verses of five books in the layout of `mod2imp`."""
    manual = directory / "downloads" / "manual" / "scripture"
    manual.mkdir(parents=True)
    for name, words in (
        ("web", ["light", "water", "stone", "river", "bread", "house", "night", "morning"]),
        ("sparv", ["luz", "agua", "piedra", "río", "pan", "casa", "noche", "mañana"]),
    ):
        lines = []
        for book in ("Genesis", "Exodus", "Esther", "Ruth", "James"):
            for verse in range(1, 13):
                start = verse * len(book)
                text = " ".join(words[(start + place) % 8] for place in range(4 + verse % 3))
                lines += [f"$$${book} 1:{verse}", text]
        (manual / f"{name}.imp").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_chorales(directory):
    """Made-up pieces in the layout of JSB-Chorales-dataset: 12, 3 and 3, with a rest each."""
    manual = directory / "downloads" / "manual" / "chorales"
    manual.mkdir(parents=True)
    scale, chords = [0, 2, 4, 5, 7, 9, 11], [0, 3, 4, 0, 5, 1, 4, 0]
    voices, quarters = {}, {}
    for split, count in (("train", 12), ("valid", 3), ("test", 3)):
        voices[split], quarters[split] = [], []
        for number in range(count):
            beats = 8 + 2 * (number % 3)
            piece = []
            for step in range(4 * beats):
                root = chords[(step // 4 + number) % 8]
                if step % 4 == 3 and step // 4 % 2:  # a passing note before every second beat
                    root = (root + 1) % 7
                degrees = [root + 4, root + 2, root, root]
                octaves = [72, 60, 55, 43]
                piece.append([o + scale[d % 7] % 12 for o, d in zip(octaves, degrees, strict=True)])
            piece[-1][2] = -1
            voices[split].append(piece)
            quarters[split].append([[p + 12 for p in step if p >= 0] for step in piece[::4]])
    (manual / "Jsb16thSeparated.json").write_text(json.dumps(voices))
    (manual / "jsb-chorales-quarter.json").write_text(json.dumps(quarters))


def write_names(directory):
    """The data set `names` of 60 made-up ones."""
    syllables = ["an", "be", "ca", "do", "el"]
    made = [f"{a}{b}{c}".upper() for a in syllables for b in syllables[:4] for c in syllables[:3]]
    package = directory / "packages" / "names"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for file in ("dist.all.last", "dist.female.first", "dist.male.first"):
        (package / file).write_text("".join(f"{name} 1.0 1.0 1\n" for name in made))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory / "packages"))
        Names(data_dir=directory, file_format="array_record").download_and_prepare()


def write_functions(directory):
    """The data set `pydoc` of a made-up package and of three modules of Python's own."""
    things = ["file", "line", "name", "number", "picture", "row", "table", "word"]
    packages = {
        "tarfile": ["count", "find"],
        "shutil": ["draw", "read"],
        "numpy": ["sort", "write"],
    }
    places = {}
    for package, deeds in {**packages, "textwrap": ["cut", "join", "wrap"]}.items():
        lines = []
        for deed in deeds:
            for thing in things:
                lines += [
                    f"def {deed}_{thing}(path, {thing}s, strict=False):",
                    f'    """{deed.capitalize()} every {thing} of a path, in order."""',
                    f"    for {thing} in {thing}s:",
                    f"        path.{deed}({thing}, strict)",
                ]
        place = directory / "packages" / package
        place.mkdir(parents=True)
        (place / "__init__.py").write_text("\n".join(lines) + "\n")
        places[package] = place, "numpy" if package == "numpy" else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pydoc, "places", staticmethod(lambda: places))
        Pydoc(data_dir=directory, file_format="array_record").download_and_prepare()
