"""Every mistake gets one sentence and a non-zero exit; every command works on a real run."""

import json
import shutil
from pathlib import Path

import pytest

from jaxgen.cli import main
from jaxgen.data.conversations import read_conversations

TOY = str(Path(__file__).parent / "training" / "toy.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("cli") / "run")
    main(["train", TOY, "--setting", "tiny", "--run", directory, "--learning-rate", "0.5"])
    return directory


def refused(capsys, *arguments, status=1):
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == status
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_flags_and_settings_reach_the_run(run):
    content = json.loads(Path(run, "config.json").read_text())
    assert content["setting"] == "tiny"
    assert content["config"]["steps"] == 4 and content["config"]["learning_rate"] == 0.5


def test_training_ends_with_where_everything_lies(tmp_path, capsys):
    main(["train", TOY, "--setting", "tiny", "--run", str(tmp_path / "run")])
    said = capsys.readouterr().err
    for name in ("samples/0000004/numbers.txt", "scores.json", "checkpoints/4"):
        assert str(tmp_path / "run" / name) in said
        assert (tmp_path / "run" / name).exists()
    assert f"jaxgen sample {tmp_path / 'run'}" in said


def test_sampling(run, capsys, tmp_path):
    main(["sample", run, "--count", "2", "--seed", "5", "--output", str(tmp_path / "drawn")])
    first = capsys.readouterr().out
    assert str(tmp_path / "drawn.txt") in first
    main(["sample", run, "numbers", "--count", "2", "--seed", "5", "--checkpoint", "last"])
    assert capsys.readouterr().out.splitlines()[0] == first.splitlines()[0]
    main(["sample", run, "--count", "2", "--seed", "6"])
    assert capsys.readouterr().out.splitlines()[0] != first.splitlines()[0]


def test_evaluating_recomputes_the_scores(run, capsys):
    before = json.loads(Path(run, "scores.json").read_text())
    main(["evaluate", run, "--checkpoint", "last"])
    assert "weights/sum" in capsys.readouterr().out
    assert json.loads(Path(run, "scores.json").read_text()) == before
    main(["evaluate", run, "--checkpoint", "last", "--only", "weights"])
    assert json.loads(Path(run, "scores.json").read_text()) == before
    with pytest.raises(SystemExit):
        main(["evaluate", run, "--only", "wieghts"])
    assert "no evaluation 'wieghts'" in capsys.readouterr().err


def test_help_documents_every_number(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", TOY, "--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--learning-rate FLOAT Adam's (default: 0.02)" in said
    assert "--mesh.fsdp" in said and "--setting {default,tiny}" in said


def test_datasets_lists_what_there_is(capsys):
    main(["datasets"])
    said = capsys.readouterr().out
    for name in ("digits", "mnist", "cifar10", "tiny_shakespeare"):
        assert name in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["trian"],
            "no command 'trian'; there are train, resume, sample, evaluate, export, datasets",
        ),
        (["train", "digits_flw"], "did you mean experiments/digits_flow.py?"),
        (["train", TOY, "--stepz", "3"], "no flag --stepz (did you mean --steps?)"),
        (["train", TOY, "--mesh.date", "3"], "did you mean --mesh.data?"),
        (["train", TOY, "--setting", "tinny"], "no setting 'tinny'"),
        (["train", TOY, "--mesh.data", "3"], "does not fit 8 devices"),
        (["resume", "nowhere"], "There is no run directory nowhere"),
        (["sample", "tests"], "is not a run directory"),
        (["evaluate", "nowhere"], "There is no run directory nowhere"),
    ],
)
def test_mistakes(capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(Path(__file__).parent.parent)
    assert said in refused(capsys, *arguments)


def test_a_value_of_another_type(capsys):
    assert "--steps" in refused(capsys, "train", TOY, "--steps", "many", status=2)


def test_mistakes_about_a_run(run, capsys, tmp_path):
    assert "already holds a run of 'toy'" in refused(capsys, "train", TOY, "--run", run)
    assert "no sampler 'nombers'" in refused(capsys, "sample", run, "nombers")
    assert "no checkpoint 3" in refused(capsys, "sample", run, "--checkpoint", "3")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["config"]["wdith"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    assert "does not fit its experiment" in refused(capsys, "resume", str(copy))
    (copy / "config.json").write_text("{half")
    assert "can't be read" in refused(capsys, "resume", str(copy))


def test_files_that_are_no_experiments(tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text("def build(:\n")
    assert "broken.py can't be run: SyntaxError" in refused(capsys, "train", str(broken))
    broken.write_text("x = 1\n")
    assert "it defines no Config" in refused(capsys, "train", str(broken))


def test_an_empty_corpus_and_a_missing_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    train = ["train", "shakespeare_gpt", "--setting", "tiny", "--run", str(tmp_path / "run")]
    (tmp_path / "empty.txt").write_text("")
    assert "empty" in refused(capsys, *train, "--corpus", str(tmp_path / "empty.txt"))
    train[-1] = str(tmp_path / "other")
    assert "missing.txt" in refused(capsys, *train, "--corpus", str(tmp_path / "missing.txt"))


def test_a_data_set_that_is_not_here(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    said = refused(capsys, "train", "shakespeare_gpt", "--run", str(tmp_path / "run"))
    assert "jaxgen datasets prepare tiny_shakespeare" in said


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run of a language model that writes letters."""
    directory = str(tmp_path_factory.mktemp("text") / "run")
    main(["train", str(Path(__file__).parent / "training" / "letters.py"), "--run", directory])
    return directory


def test_text_is_streamed_and_kept(written, capsys, tmp_path):
    arguments = ["--prompt", "ab", "--tokens", "9", "--seed", "3", "--output", str(tmp_path / "t")]
    main(["sample", written, *arguments])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("ab") and len(said[0]) == 11
    assert said[1] == str(tmp_path / "t.txt")
    assert (tmp_path / "t.txt").read_text() == said[0] + "\n"
    main(["sample", written, *arguments, "--stop", said[0][5:7], "hhhhhhhh"])
    assert capsys.readouterr().out.splitlines()[0] == said[0][: said[0].index(said[0][5:7], 2)]


def test_a_file_of_prompts_becomes_a_file_of_answers(written, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text("ab\nabcdef\nc\n")
    flags = ["--tokens", "4", "--temperature", "0", "--output", str(tmp_path / "answers")]
    main(["sample", written, "--prompts", str(tmp_path / "prompts.txt"), "--batch", "2", *flags])
    assert "3 passages" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["ab", "abcdef", "c"]
    assert all(len(line["text"]) == line["tokens"] == 4 for line in lines)
    main(["sample", written, "--prompt", "abcdef", *flags, "--draft", written])
    assert capsys.readouterr().out.splitlines()[0] == "abcdef" + lines[1]["text"]


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"ab\n\xff\n", "p.txt", "Line 2 of {} is not UTF-8"),
        (b"ab\n\ncd\n", "p.txt", "Line 2 of {} is empty"),
        (b"", "p.txt", "{} holds no prompt"),
        (b'{"prompt": "ab"}\n{"text": "ab"}\n', "p.jsonl", "Line 2 of {} is no JSON object"),
        (None, "p.txt", "There is no file of prompts {}"),
    ],
)
def test_bad_files_of_prompts(written, capsys, tmp_path, content, name, said):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    assert said.format(file) in refused(capsys, "sample", written, "--prompts", str(file))


def test_a_conversation_goes_on_from_what_was_said(tmp_path, capsys):
    run, turns = str(tmp_path / "run"), tmp_path / "turns.txt"
    main(["train", str(Path(__file__).parent / "training" / "letters.py"), "--chat", "--run", run])
    turns.write_text("ab\ncd\n")
    flags = ["--turns", str(turns), "--temperature", "0", "--tokens", "3"]
    capsys.readouterr()
    main(["sample", run, *flags, "--output", str(tmp_path / "chat")])
    shown = capsys.readouterr().out.splitlines()
    (told,) = read_conversations(tmp_path / "chat.jsonl")
    assert [message.role for message in told] == ["user", "assistant"] * 2
    said = [message.content for message in told]
    assert said[::2] == ["ab", "cd"] and shown[:4] == ["> ab", said[1], "> cd", said[3]]
    # The second answer is the one to the whole conversation.
    main(["sample", run, "--prompt", "cd", "--before", "ab", said[1], *flags[2:]])
    assert capsys.readouterr().out.splitlines()[:2] == ["cd", said[3]]
    # A turn that has no room leaves what was said before it.
    turns.write_text("ab\n" + "abcdefg" * 3 + "\n")
    assert "context is 16" in refused(
        capsys, "sample", run, *flags, "--output", str(tmp_path / "b")
    )
    assert len(next(iter(read_conversations(tmp_path / "b.jsonl")))) == 2
    assert "leave it" in refused(capsys, "sample", run, *flags, "--count", "2")
    assert "1 messages" in refused(capsys, "sample", run, "--before", "ab")
    assert "prompt is empty" in refused(capsys, "sample", run, "--prompt", "")


def test_bad_requests_for_text(written, run, capsys):
    assert "The prompt is empty" in refused(capsys, "sample", written, "--prompt", "")
    assert "the stop string 'ä'" in refused(
        capsys, "sample", written, "--prompt", "ab", "--stop", "ä"
    )
    assert "is no run of a language model" in refused(capsys, "sample", written, "--draft", run)
    assert "context is 16" in refused(capsys, "sample", written, "--prompt", "ab" * 9)
