"""Holds the rooms' one-way rules, by reading every import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(ROOT.glob("jaxgen/**/*.py")) + sorted(ROOT.glob("experiments/*.py"))

# Which rooms a room may import from, besides itself and the doors that all share.
DOORS = {"errors", "experiment", "artifacts"}
MAY_IMPORT = {
    "errors": set(),
    "artifacts": set(),
    "experiment": {"artifacts", "errors"},
    "parallel": set(),
    "nn": {"parallel"},
    "data": set(),
    "evaluation": {"nn", "parallel"},
    "families": {"nn", "parallel.sharding"},
    "interop": {"families", "nn", "parallel", "data.subwords"},
    "training": {"parallel", "data.loader"},
    "flags": set(),
    "sample_command": {"flags", "training", "data"},
    "train_command": {
        "sample_command",
        "flags",
        "training",
        "parallel.hosts",
        "parallel.watch",
    },
    "cli": {
        "sample_command",
        "train_command",
        "flags",
        "training",
        "data",
        "interop",
        "parallel.watch",
        "supervision",
    },
    "supervision": {"flags"},
    "__main__": {"cli", "supervision"},
    "experiments": {
        "families",
        "nn",
        "data",
        "evaluation",
        "interop",
        "parallel.sharding",
        "training.optimizers",
        "cli",
    },
}


def imports(path):
    """Every module that a file imports, wherever in the file, with the lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                yield f"{node.module}.{name.name}", node.lineno


def room_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "experiments" if parts[0] == "experiments" else parts[1]


def test_there_is_something_to_read():
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    room = room_of(path)
    if path.parent == ROOT / "jaxgen" and path.name == "__init__.py":
        return
    for module, line in imports(path):
        if not module.startswith("jaxgen."):
            continue
        inside = module.removeprefix("jaxgen.")
        target = inside.split(".")[0]
        allowed = MAY_IMPORT[room] | DOORS | {room}
        assert any(inside == name or inside.startswith(name + ".") for name in allowed), (
            f"{path.relative_to(ROOT)}:{line} imports {module}; {room} may only use {allowed}"
        )
        if room == "families" and target == "families":
            family = path.relative_to(ROOT / "jaxgen" / "families").parts[0]
            assert inside.split(".")[1] == family, (
                f"{path}:{line}: families never import each other"
            )


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("orbax", {"jaxgen/training/checkpoints.py"}),
        ("tyro", {"jaxgen/flags.py"}),
        ("argparse", set()),
        ("tensorboardX", {"jaxgen/training/metrics.py"}),
        ("tensorflow", set()),
        ("torch", set()),
        ("flax.nnx", {"jaxgen/interop/nnx.py"}),
        ("jax.experimental.pjit", set()),
        ("jax.experimental.shard_map", set()),
    ],
)
def test_one_file_imports_each(package, only):
    users = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for module, _ in imports(path)
        if module == package or module.startswith(package + ".")
    }
    assert users == only


def test_one_file_builds_meshes():
    builders = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("jax.make_mesh", "Mesh", "jax.sharding.Mesh")
    }
    assert builders == {"jaxgen/parallel/mesh.py"}


def test_data_workers_need_no_jax():
    """What a loader worker unpickles must import without jax."""
    for path in sorted((ROOT / "jaxgen" / "data").glob("**/*.py")):
        tree = ast.parse(path.read_text())
        top_level = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in top_level:
            names = [n.name for n in node.names] if isinstance(node, ast.Import) else [node.module]
            assert not any(n == "jax" or n.startswith(("jax.", "flax")) for n in names), path


def test_files_are_short():
    long = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in MODULES
        if len(path.read_text().splitlines()) > 300
    }
    assert not long


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*.py")), ids=lambda p: p.stem)
def test_experiments_are_short_and_introduce_themselves(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 150
    assert 'if __name__ == "__main__":' in source and "main([" in source
    opening = ast.get_docstring(ast.parse(source)) or ""
    for said in ("command", "hardware", "time", "expected"):
        assert said in opening.lower(), f"{path.name} does not open with its {said}"
