"""How each score of pictures moves with their number, where the pictures are real: two tables.

    python benchmarks/scores_by_count.py MNIST_CLASSIFIER_RUN [--digits DIGITS_CLASSIFIER_RUN]

A model can do no better than real training pictures against the 10,000 test pictures, and these
figures say what that comes to at 500, ..., 10,000 of them; each is the mean over several draws
without replacement, ± their standard deviation. With --digits the same for the 8×8 digits: training
digits against the held-out fifth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np

from jaxgen.data.datasets import digits_split, mnist
from jaxgen.data.sources import Subset, in_memory
from jaxgen.evaluation.features import read
from jaxgen.evaluation.image_scores import feature_scores, reference
from jaxgen.training.runs import load

COUNTS = (500, 1000, 2000, 5000, 10_000)
DIGITS_COUNTS = (100, 200, 359, 700, 1000, 1400)
DRAWS = 3

Drawn = Callable[[np.ndarray], dict[str, float]]


def table(title: str, scores: Drawn, population: int, counts: tuple[int, ...], draws: int) -> str:
    """One row a score, one column a count."""
    columns = []
    for count in counts:
        generator = np.random.default_rng(count)
        columns.append([scores(generator.permutation(population)[:count]) for _ in range(draws)])
        print(f"  {count} done", flush=True)
    lines = [f"| {title} | " + " | ".join(f"{count:,}" for count in counts) + " |"]
    lines.append("|---|" + "---:|" * len(counts))
    for name in [name for name in columns[0][0] if name != "samples"]:
        cells = []
        for column in columns:
            values = [drawn[name] for drawn in column]
            cells.append(f"{np.mean(values):.4g} ± {np.std(values):.2g}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mnist_table(run: str, counts: tuple[int, ...], draws: int) -> str:
    loaded = load(run)
    look = partial(read, loaded.network, loaded.params)
    real = reference(look, mnist("test"))
    # Read once: what varies is which of them are drawn. Twice as many as the largest draw will do.
    population = np.random.default_rng(0).permutation(60_000)[: 2 * max(counts)]
    train = reference(look, Subset(mnist("train"), population))
    return table(
        "MNIST, training against test",
        lambda rows: feature_scores(real, train.rows(rows)),
        len(train.features),
        counts,
        draws,
    )


def digits_table(run: str, counts: tuple[int, ...], draws: int) -> str:
    loaded = load(run)
    look = partial(read, loaded.network, loaded.params)
    items, held_out = digits_split()
    train, real = reference(look, items), reference(look, held_out)
    labels = in_memory(items).leaves["label"]

    def scores(rows: np.ndarray) -> dict[str, float]:
        drawn = train.rows(rows)
        agreement = float(np.mean(drawn.labels == labels[rows]))
        return feature_scores(real, drawn) | {"label_agreement": agreement}

    return table("digits, training against held out", scores, len(items), counts, draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a trained run of experiments/mnist_classifier.py")
    parser.add_argument("--digits", help="a trained run of experiments/digits_classifier.py")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    if arguments.digits:
        print(digits_table(arguments.digits, DIGITS_COUNTS, arguments.draws), end="\n\n")
    print(mnist_table(arguments.run, tuple(arguments.counts), arguments.draws))


if __name__ == "__main__":
    main()
