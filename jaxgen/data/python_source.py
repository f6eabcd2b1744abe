"""Functions with their documentation, read from Python source that is never run."""

from __future__ import annotations

import ast
import os
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxgen.errors import UserError

Function = ast.FunctionDef | ast.AsyncFunctionDef

# Folders whose functions are no part of what a package offers: its tests, and copies of others.
_ELSEWHERE = frozenset(
    ("test", "tests", "testing", "_vendor", "vendor", "_vendored", "site-packages", "__pycache__")
)


@dataclass(frozen=True)
class Documented:
    """A function or a method, and what is said about it."""

    module: str  # "email.utils"
    name: str  # "formataddr"; a method's has its class before it, "Message.as_string"
    source: str  # written anew, without documentation and comments
    documentation: str  # whole, without its indentation


def documented(package: Path) -> Iterator[Documented]:
    """The documented functions of a package's directory, or of one module's file, in order.

    Methods are among them, functions inside functions are not; of several with one name in a
    module, such as a property's, the first alone. Tests and copies of other packages are left out,
    and files that this Python can't read.
    """
    for file, module in _files(package):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "invalid escape sequence" is not about us
                tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        seen = set()
        for name, function in _functions(tree, ""):
            said = ast.get_docstring(function)
            if name not in seen and said and said.strip():
                seen.add(name)
                yield Documented(module, name, _bare(function), said.strip())


def bare(source: str) -> str:
    """The first function of some source, written as `documented` writes it.

    Raises:
        UserError: where there is none, or Python can't read it.
    """
    try:
        # A method that was copied out of its class is indented.
        tree = ast.parse(textwrap.dedent(source))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"This isn't Python: {error}. Give a function's whole source.") from error
    found = next(_functions(tree, ""), None)
    if found is None:
        raise UserError("There is no function in this source: give one, from `def` on.")
    return _bare(found[1])


def _files(package: Path) -> Iterator[tuple[Path, str]]:
    """Python files, and the modules that they are."""
    if package.is_file():
        yield package, package.stem
        return
    for folder, folders, files in os.walk(package):
        folders[:] = sorted(name for name in folders if name not in _ELSEWHERE)
        place = Path(folder).relative_to(package.parent)
        for name in sorted(files):
            if name.endswith(".py"):
                parts = place.parts if name == "__init__.py" else (*place.parts, name[:-3])
                yield Path(folder) / name, ".".join(parts)


def _functions(node: ast.AST, within: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield f"{within}{child.name}", child
        else:
            # Down into classes, and into what is defined in cases: `if`, `try`.
            inside = f"{within}{child.name}." if isinstance(child, ast.ClassDef) else within
            yield from _functions(child, inside)


def _bare(function: Function) -> str:
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:] or [ast.Pass()]
    return ast.unparse(function)
