"""Where prepared TFDS data sets lie, and how they get there.

Reading needs no TensorFlow; preparing one that TFDS itself brings does, once. Our own builders
never do, and prepare themselves where they are first used; one whose files a user has to fetch
reads them in TFDS's place for such, downloads/manual.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath

from jaxgen.data.builders.chorales import Chorales, Music21Chorales
from jaxgen.data.builders.cmudict import Cmudict
from jaxgen.data.builders.digits import Digits
from jaxgen.data.builders.names import Names
from jaxgen.data.builders.pydoc import Pydoc
from jaxgen.data.builders.scripture import Scripture
from jaxgen.data.builders.speeches import Speeches
from jaxgen.errors import UserError

Builder = type[tfds.core.GeneratorBasedBuilder]
OWN: tuple[Builder, ...] = (
    Digits, Speeches, Cmudict, Scripture, Pydoc, Names, Chorales, Music21Chorales,
)  # fmt: skip

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def directories(data_dir: epath.PathLike | None = None) -> list[epath.Path]:
    """Where data sets are looked for, the first also where they are prepared if it can be written.

    `data_dir`, or else TFDS_DATA_DIR, or else TFDS's own ~/tensorflow_datasets; then jaxgen's
    cache, which takes our own data sets where the first is read-only.
    """
    first = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return [epath.Path(first).expanduser(), epath.Path(cache).expanduser() / "jaxgen" / "datasets"]


def own(name: str) -> Builder | None:
    """Our own builder of that name, if it is one."""
    return next((builder for builder in OWN if builder.name == name), None)


def find(name: str, data_dir: epath.PathLike | None = None) -> epath.Path | None:
    """The directory of a prepared data set's newest version, or None.

    name: "mnist", "glue/cola", "mnist:3.0.1", as TFDS writes it. UserError where the name leaves
    open which configuration of several is meant.
    """
    path, _, version = name.partition(":")
    for directory in directories(data_dir):
        found = _newest(directory / path, version)
        if found:
            return found
        configurations = sorted(
            child.name for child in _children(directory / path) if _newest(child, version)
        )
        if len(configurations) > 1:
            one_of = ", ".join(f"{path}/{configuration}" for configuration in configurations)
            raise UserError(f"the data set {path} is here as {one_of}: name one of them")
        if configurations:
            return _newest(directory / path / configurations[0], version)
    return None


def prepared(data_dir: epath.PathLike | None = None) -> Iterator[tuple[str, epath.Path]]:
    """Every prepared data set in `directories`: its name with configuration, its directory."""
    seen = set()
    for directory in directories(data_dir):
        for entry in _children(directory):
            for place in [entry, *_children(entry)]:
                name = entry.name if place is entry else f"{entry.name}/{place.name}"
                found = _newest(place, "")
                if found and name not in seen:
                    seen.add(name)
                    yield name, found


def describe(path: epath.Path) -> tuple[str, int, int]:
    """One line of description, the examples and the bytes of a prepared data set."""
    info = json.loads((path / "dataset_info.json").read_text())
    splits = info.get("splits", [])
    examples = sum(int(length) for split in splits for length in split.get("shardLengths", []))
    size = sum(int(split.get("numBytes", 0)) for split in splits)
    lines = info.get("description", "").strip().splitlines()
    return (lines[0] if lines else ""), examples, size


def prepare_own(builder: Builder, data_dir: epath.PathLike | None = None) -> epath.Path:
    """Prepares one of our own, silently, in the first directory that can be written.

    Several processes may do so at once: each prepares its own copy, and the first one renames
    it into place. UserError where it can be written nowhere, or its files haven't been fetched.
    """
    manual = _needed_by_hand(builder, data_dir)
    reasons = []
    for directory in directories(data_dir):
        if "://" in os.fspath(directory):
            continue  # an object store can't rename
        target = Path(directory) / builder.name / str(builder.VERSION)
        if _write_protected(Path(directory)):
            reasons.append(f"{directory}: read-only")
            continue
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
            scratch = tempfile.mkdtemp(prefix=".preparing-", dir=directory)
        except OSError as error:
            reasons.append(f"{directory}: {error.strerror}")
            continue
        try:
            # One that stays silent: TFDS prints a banner and two bars for a second's work.
            silence = io.StringIO()
            with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
                made = builder(data_dir=scratch, file_format="array_record")
                made.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(manual_dir=manual)
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(made.data_dir, target)
            except OSError:
                if not _is_prepared(epath.Path(target)):
                    raise
        except OSError as error:
            reasons.append(f"{directory}: {error.strerror or error}")
            continue
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return epath.Path(target)
    raise UserError(
        f"the data set {builder.name} can be written nowhere ({'; '.join(reasons)}): point "
        f"TFDS_DATA_DIR at a directory of yours with room"
    )


def prepare_tfds(name: str, data_dir: epath.PathLike | None = None) -> epath.Path:
    """Downloads and prepares one of TFDS's own data sets, as array_record, with its progress.

    UserError for an unknown name, without TensorFlow, without network.
    """
    base = re.split("[/:]", name)[0]
    known = sorted({*tfds.list_builders(with_community_datasets=False), *(o.name for o in OWN)})
    if base not in known:
        near = difflib.get_close_matches(base, known, 1)
        hint = f"did you mean {near[0]}?" if near else "`jaxgen datasets` lists what there is"
        raise UserError(f"there is no data set {base}: {hint}")
    directory = directories(data_dir)[0]
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"the data set {name} is not in {directory}, and TFDS needs TensorFlow to prepare it: "
            f'`pip install "jaxgen[prepare]"`, then `jaxgen datasets prepare {name}`; or point '
            f"TFDS_DATA_DIR at a directory where it is prepared"
        )
    if "://" not in os.fspath(directory) and _write_protected(Path(directory)):
        raise UserError(
            f"the data set {name} is not in {directory}, which is read-only: point TFDS_DATA_DIR "
            f"at a directory of yours to prepare it in"
        )
    try:
        builder = tfds.builder(name, data_dir=directory, file_format="array_record")
        _check_network(builder.url_infos or {})
        builder.download_and_prepare()
    except ImportError as error:
        raise UserError(
            f"preparing the data set {name} needs the module {error.name}: "
            f'`pip install "jaxgen[prepare]" {error.name}`'
        ) from error
    except Exception as error:  # whatever TFDS, its builder and the network may raise
        lines = str(error).strip().splitlines()
        raise UserError(
            f"the data set {name} could not be downloaded and prepared in {directory} "
            f"({type(error).__name__}: {lines[0] if lines else 'no message'}): check the network "
            f"and the space there, or point TFDS_DATA_DIR at a directory where it is prepared"
        ) from error
    return epath.Path(builder.data_dir)


def fetched_by_hand(builder: Builder, data_dir: epath.PathLike | None = None) -> epath.Path | None:
    """The folder downloads/manual that has files for a builder; None where there are none."""
    folders = [directory / "downloads" / "manual" for directory in directories(data_dir)]
    return next((folder for folder in folders if (folder / builder.name).is_dir()), None)


def _needed_by_hand(builder: Builder, data_dir: epath.PathLike | None) -> epath.Path | None:
    """The same, where a builder needs files: UserError where there are none."""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
        return None
    manual = fetched_by_hand(builder, data_dir)
    if manual is None:
        raise UserError(
            f"the data set {builder.name} is made of files that you fetch once: "
            f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS} of {directories(data_dir)[0]}"
        )
    return manual


def _write_protected(directory: Path) -> bool:
    """Whether the nearest directory that exists lets nobody write: root too leaves it alone."""
    nearest = next(place for place in [directory, *directory.parents] if place.exists())
    return not nearest.stat().st_mode & 0o222


def _check_network(urls: Iterable[str]) -> None:
    """Raises OSError where a data set's host can't be found: TFDS would retry for minutes."""
    if not urllib.request.getproxies():  # a proxy looks names up by itself
        for host in {urllib.parse.urlsplit(url).hostname for url in urls}:
            socket.getaddrinfo(host, None)


def _children(directory: epath.Path) -> list[epath.Path]:
    try:
        return sorted(c for c in directory.iterdir() if c.is_dir() and c.name[0] != ".")
    except OSError:
        return []


def _newest(directory: epath.Path, version: str) -> epath.Path | None:
    """The newest whole version below `directory`, or `version` itself."""
    versions = [
        child
        for child in _children(directory)
        if _VERSION.fullmatch(child.name) and child.name == (version or child.name)
    ]
    versions.sort(key=lambda child: tuple(int(part) for part in child.name.split(".")))
    return next((child for child in reversed(versions) if _is_prepared(child)), None)


def _is_prepared(path: epath.Path) -> bool:
    return (path / "dataset_info.json").exists() and (path / "features.json").exists()
