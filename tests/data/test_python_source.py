"""Functions are read from source as they stand there, and cleaned as they should be."""

import textwrap
from pathlib import Path

import pytest

from jaxgen.data.builders.pydoc import Pydoc
from jaxgen.data.python_functions import python_functions, words_of
from jaxgen.data.python_source import bare, documented
from jaxgen.errors import UserError

MODULE = '''
def shown(first, second=2):
    """Adds two numbers.

    Both count:
        indented.
    """
    # A comment.
    return first + second

class Box:
    @property
    def size(self):
        "The size."
        def inside():
            "Never told."
        return inside

    @size.setter
    def size(self, value):
        "Another size."

    def silent(self): ...

if True:
    async def waited(): "Said alone."
'''


def test_functions_are_told_with_their_places(tmp_path):
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "__init__.py").write_text(MODULE)
    (tmp_path / "box" / "broken.py").write_text("def (:")
    (tmp_path / "box" / "tests").mkdir()
    (tmp_path / "box" / "tests" / "more.py").write_text(MODULE)
    found = list(documented(tmp_path / "box"))
    assert [(each.module, each.name) for each in found] == [
        ("box", "shown"),
        ("box", "Box.size"),
        ("box", "waited"),
    ]
    assert found[0].source == "def shown(first, second=2):\n    return first + second"
    assert found[0].documentation == "Adds two numbers.\n\nBoth count:\n    indented."
    assert found[2].source == "async def waited():\n    pass"


def test_of_pythons_own_module_nothing_is_missed():
    found = {each.name: each for each in documented(Path(textwrap.__file__))}
    for name in ("dedent", "wrap", "TextWrapper.fill"):
        function = eval(f"textwrap.{name}", {"textwrap": textwrap})
        assert found[name].documentation.split() == function.__doc__.split()


def test_a_question_is_cleaned_like_the_data():
    method = '    def f(self):  # why\n        """What."""\n        return 1\n'
    assert bare(method) == "def f(self):\n    return 1"
    with pytest.raises(UserError, match="isn't Python"):
        bare("def f(:")
    with pytest.raises(UserError, match="no function"):
        bare("x = 1")


@pytest.mark.parametrize("name", ["getFileSize", "_get_file_size", "get_fileSize"])
def test_a_name_is_taken_apart(name):
    assert words_of(name) == "get file size"


def write(directory, package, functions):
    lines = [f'def {name}(path):\n    """{said}"""\n    {body}' for name, said, body in functions]
    (directory / f"{package}.py").write_text("\n".join(lines) + "\n")
    return directory / f"{package}.py", None


def test_parts_are_packages_cleaned_and_share_nothing(tmp_path, monkeypatch):
    long = "for part in path:\n        print(part)"
    places = {
        "shutil": [
            ("copy", "Copies all parts.", long),
            ("__copy__", "Copies all parts too.", long),
        ],
        "tarfile": [("pack", "Packs all parts.", long.replace("print", "pack"))],
        "csv": [
            ("copied", "Copies all parts.", long.replace("print", "copy")),  # the test's summary
            ("packed", "Packs every part.", long.replace("print", "pack")),
            ("packed_anew", "Packs every part.", long.replace("print", "pack_anew")),  # once
            ("short", "Too short a function.", "pass"),
            ("two", "Two words", long.replace("print", "two")),
            ("test_it", "This is a test.", long.replace("print", "it")),
            ("listed", "- begins with a sign", long.replace("print", "sign")),
        ],
    }
    found = {name: write(tmp_path, name, functions) for name, functions in places.items()}
    monkeypatch.setattr(Pydoc, "places", staticmethod(lambda: found))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # not what the user has prepared
    training, dev, test = python_functions(tmp_path / "tfds")
    assert [function.name for function in test] == ["copy"]
    assert [function.name for function in dev] == ["pack"]
    assert [(each.package, each.name) for each in training] == [("csv", "packed")]
    assert training[0].standard
    # Prepared once: what is installed later changes nothing.
    (tmp_path / "csv.py").unlink()
    assert python_functions(tmp_path / "tfds")[2] == test
