"""Speeches in the layout of npm's package, made up: for where the real ones aren't."""

import json
from pydoc_data.topics import topics


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
