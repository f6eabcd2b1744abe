import json

import pytest
from etils import epath

from jaxgen.training.metrics import Lines, MetricsWriter, Progress, read_lines


@pytest.mark.parametrize("appends", [True, False])
def test_lines_grow_and_are_cut_at_the_step_they_resume_from(tmp_path, appends):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    lines = Lines(path, 0, appends)
    for step in range(1, 6):
        lines.add({"step": step, "loss": step / 3})
    assert len(read_lines(path)) == (5 if appends else 0)
    lines.sync()
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3, 4, 5]
    lines.close()
    path.write_text(path.read_text() + '{"step": 6, "lo')  # a kill in the middle of a line
    lines = Lines(path, 3, appends)
    lines.add({"step": 4, "loss": 0.5})
    lines.close()
    assert path.read_text().splitlines() == [
        *(json.dumps({"step": step, "loss": step / 3}) for step in (1, 2, 3)),
        '{"step": 4, "loss": 0.5}',
    ]


def test_tensorboard_gets_the_same(tmp_path):
    writer = MetricsWriter(epath.Path(tmp_path), 0)
    writer.write(3, {"train/loss": 0.25})
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


class Terminal:
    def __init__(self, is_terminal):
        self.written, self._is_terminal = "", is_terminal

    def isatty(self):
        return self._is_terminal

    def write(self, text):
        self.written += text

    def flush(self):
        pass


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_live_on_a_terminal_and_plain_elsewhere(monkeypatch, is_terminal):
    terminal = Terminal(is_terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(0, 100, rows=8, unit="tokens", units_per_row=64) as progress:
        timing = progress.update(10, {"gpt/loss": 1.5})
        progress.update(20, {"gpt/loss": 1.25})
    assert timing["tokens_per_second"] == pytest.approx(512 / timing["seconds_per_step"])
    assert "step 20/100  gpt/loss 1.2500" in terminal.written and "left" in terminal.written
    assert terminal.written.count("\r") == (2 if is_terminal else 0)
    assert terminal.written.count("\n") == (1 if is_terminal else 2)
