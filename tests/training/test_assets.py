"""What a run keeps of its data: samples need no data, and training goes on with no other."""

import shutil

import pytest
from etils import epath

from jaxgen.errors import UserError
from jaxgen.training import beginning, drawing, experiment_file, runs

# A bigram model of a text: small enough to train at once, with a vocabulary that its data decides.
BIGRAMS = """
from dataclasses import dataclass
import jax
import jax.numpy as jnp
import optax
from jaxgen.artifacts import Text
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.text import Blocks, Windows, fingerprint, text_split, unchanged
from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.experiment import Evaluation, Experiment, Output, Sampler, Update

@dataclass(frozen=True)
class Config:
    corpus: str = ""
    steps: int = 4

@dataclass(frozen=True)
class Ask:
    prompt: str = "the"
    seed: int = 0

SETTINGS = {"default": Config()}

def assets(config):
    text = text_split(config.corpus)
    tokenizer = train_byte_pairs(text, 260)
    return {**tokenizer.files(), "corpus.sha256": fingerprint(text)}

def build(config, kept):
    tokenizer = SubwordTokenizer.from_files(kept)
    size = tokenizer.vocabulary_size

    def data():
        text = unchanged(text_split(config.corpus), kept["corpus.sha256"])
        training, held_out = (tokenizer.encode(part) for part in text)
        return {"train": Shuffled(Windows(training, 4), 8, 0), "blocks": Blocks(held_out, 4)}

    def loss(params, context):
        seen, next_ = context.batch["tokens"][:, :-1], context.batch["tokens"][:, 1:]
        logits = params["table"][seen]
        return Output(optax.softmax_cross_entropy_with_integer_labels(logits, next_).mean())

    def score(model, data, key):
        return {"blocks": len(data["blocks"])}

    sampler = Sampler(
        request=Ask,
        prepare=lambda request: ((), tokenizer.encode(request.prompt)),
        sample=lambda model, key, static, tokens: model.params["table"][tokens].argmax(-1),
        render=lambda tokens: Text((tokenizer.decode(tokens),)),
    )
    return Experiment(
        init=lambda key, batch: ({"table": jax.random.normal(key, (size, size))}, {}),
        updates=[Update("bigrams", loss, optax.sgd(0.1))],
        data=Deferred(data),
        steps=config.steps,
        seed=0,
        samplers={"next": sampler},
        evaluations=[Evaluation("held_out", score)],
        checkpoint_every=2,
    )
"""
TEXT = "the cat sat on the mat, the rat on the hat.\n" * 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps out of four, and the corpus that it began with."""
    folder = tmp_path_factory.mktemp("assets")
    (folder / "bigrams.py").write_text(BIGRAMS)
    (folder / "corpus.txt").write_text(TEXT)
    run = begin(folder, folder / "run", steps=2)
    runs.carry_on(run)
    content = run.read("config.json")
    run.write("config.json", content | {"config": content["config"] | {"steps": 4}})
    return run, folder / "corpus.txt"


def begin(folder, path, **numbers):
    file = experiment_file.read(epath.Path(folder / "bigrams.py"))
    config = file.config_type(corpus=str(folder / "corpus.txt"), **numbers)
    return beginning.begin(path, file, "default", config, beginning.Options(), {}, [])


def drawn(path):
    loaded = runs.load(path)
    sampler = loaded.experiment.samplers["next"]
    return drawing.draw(sampler, sampler.request(prompt="the cat sat"), loaded.model).passages


def test_samples_are_the_same_where_the_corpus_is_gone_or_changed(trained, tmp_path):
    run, corpus = trained
    before = drawn(run.path)
    kept = ["corpus.sha256", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(file.name for file in run.assets.iterdir()) == kept
    assert run.read("batch.json") == {"tokens": ["int32", 1, 5]}
    moved = corpus.rename(tmp_path / "elsewhere.txt")
    try:
        assert drawn(run.path) == before
        with pytest.raises(UserError, match=r"corpus\.txt doesn't exist"):
            runs.carry_on(run)
        corpus.write_text("another text, of other characters and pairs: zzzz" * 9)
        assert drawn(run.path) == before
    finally:
        moved.rename(corpus)


def test_neither_training_nor_scoring_goes_on_with_another_corpus(trained, tmp_path):
    run, corpus = trained
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    corpus.write_text(TEXT.replace("rat on", "rat in"))  # the same characters
    try:
        with pytest.raises(UserError, match="corpus has changed since this run began"):
            runs.carry_on(runs.run_directory.open_run(copy))
        with pytest.raises(UserError, match="put the old text back, or train anew"):
            runs.evaluate(runs.load(copy))
    finally:
        corpus.write_text(TEXT)
    assert runs.evaluate(runs.load(copy)) == {"held_out/blocks": 4}
    runs.carry_on(runs.run_directory.open_run(copy))
    assert runs.load(copy).step == 4


def test_a_run_without_its_data_is_not_begun(trained, tmp_path):
    (tmp_path / "bigrams.py").write_text(BIGRAMS)
    with pytest.raises(UserError, match=r"corpus\.txt doesn't exist"):
        begin(tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
