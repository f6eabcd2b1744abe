"""What the README tells people to type is what works."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_a_network_lifts_out_into_a_bare_script(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (script,) = [block for block in blocks if "network.init" in block]
    script += "\nassert velocity.shape == (4, 32, 32, 3)\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_components_page_is_scripts_that_print_what_it_says(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "components.md").read_text()
    scripts = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(scripts) == 4
    assert all(len([line for line in script.splitlines() if line]) <= 12 for script in scripts)
    expected = re.findall(r"# (\(\d.*?\))(?:,.*)?$", page, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(scripts)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == expected


def test_the_commands_are_the_command_lines():
    from jaxgen.cli import _command

    for name in set(re.findall(r"^(?:\.venv/bin/)?jaxgen (\w+)", README, re.MULTILINE)):
        assert callable(_command(name))


def test_every_file_it_names_is_there():
    root = Path(__file__).parent.parent
    for name in re.findall(r"\]\(([\w/]+\.md)[)#]", README):
        assert (root / name).exists(), name
