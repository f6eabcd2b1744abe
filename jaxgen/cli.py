"""The command line: each command, and what it says."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import absl.logging
import jax
from etils import epath

from jaxgen import flags
from jaxgen.data import datasets
from jaxgen.errors import UserError, sentence_of
from jaxgen.interop.exporting import export
from jaxgen.parallel.watch import beat_for_supervisor
from jaxgen.sample_command import checkpoint_flags, run_argument, sample, say
from jaxgen.supervision.command import supervise
from jaxgen.train_command import resume, train
from jaxgen.training import host_memory, run_directory, runs
from jaxgen.training.interruption import Interrupted

log = logging.getLogger("jaxgen")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0; 1 or 2 after a mistake; 128 + n after a signal."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_process()
    try:
        command = _command(arguments[0] if arguments else "--help")
        command(arguments[1:])
    except Interrupted as stopped:
        sys.exit(128 + stopped.signal_number)
    except KeyboardInterrupt:
        log.error("jaxgen: stopped.")
        sys.exit(130)
    except BrokenPipeError:  # whoever reads what we say has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, OSError, RuntimeError) as error:
        if not sentence_of(error):
            raise
        log.error("jaxgen: %s", sentence_of(error))
        sys.exit(1)


def _evaluate(arguments: list[str]) -> None:
    path = run_argument(arguments, "evaluate", "[flags]")
    told = "Computes all of an experiment's scores over its whole held-out split."
    only = flags.flag("only", str, "", "the one evaluation to compute; left out, all of them")
    own = [*checkpoint_flags(), only]
    chosen = flags.parse(own, arguments[1:], f"jaxgen evaluate {path}", told)
    loaded = runs.load(path, chosen.checkpoint, chosen.ema)
    names = [evaluation.name for evaluation in loaded.experiment.evaluations]
    if chosen.only and chosen.only not in names:
        raise UserError(
            f"There is no evaluation {chosen.only!r} in {path}; there are {', '.join(names)}"
            f"{flags.nearest(chosen.only, names)}."
        )
    scores = runs.evaluate(loaded, chosen.only)
    runs.keep_scores(run_directory.open_run(path), loaded.step, chosen.ema, scores)
    for name, value in scores.items():
        say(f"{name:44} {value:.4f}")


def _export(arguments: list[str]) -> None:
    path = run_argument(arguments, "export", "[--to DIRECTORY] [flags]")
    told = "Writes a run's model as transformers opens it: AutoModelForCausalLM.from_pretrained."
    to = flags.flag("to", str, "", "the new directory; left out, RUN/exported")
    chosen = flags.parse([*checkpoint_flags(), to], arguments[1:], f"jaxgen export {path}", told)
    loaded = runs.load(path, chosen.checkpoint, chosen.ema)
    directory = chosen.to or str(epath.Path(path) / "exported")
    context = getattr(loaded.config, "context", None)
    export(directory, loaded.network, loaded.params, loaded.kept, context)
    say(directory)


def _datasets(arguments: list[str]) -> None:
    if arguments[:1] == ["prepare"] and len(arguments) == 2:
        return say(f"{arguments[1]} is in {datasets.prepare(arguments[1])}")
    if arguments:
        return say(
            "usage: jaxgen datasets [prepare NAME]\n\nLists the data sets: their size, whether "
            "they are here, and how to get them; `prepare` gets one."
        )
    for entry in datasets.catalogue():
        size = [f"{entry.examples:,} examples"] if entry.examples is not None else []
        size += [f"{entry.bytes / 1e6:,.1f} MB"] if entry.bytes is not None else []
        say(f"{entry.name:20} {entry.what}" + (f" ({', '.join(size)})" if size else ""))
        say(" " * 21 + (f"here: {entry.path}" if entry.path else f"not here; {entry.get}"))


def _command(name: str) -> Callable[[list[str]], None]:
    commands = {
        "train": train,
        "resume": resume,
        "sample": sample,
        "evaluate": _evaluate,
        "export": _export,
        "datasets": _datasets,
        "supervise": supervise,
    }
    if name in ("-h", "--help"):
        return lambda _: say(
            "usage: jaxgen COMMAND ...\n\n"
            "  train EXPERIMENT.py [flags]    train an experiment, into a new run directory\n"
            "  resume RUN                     continue a run exactly where it stopped\n"
            "  sample RUN [SAMPLER] [flags]   draw from what a run has learned\n"
            "  evaluate RUN [flags]           score it on its held-out data\n"
            "  export RUN [flags]             write its model for Hugging Face's transformers\n"
            "  datasets [prepare NAME]        list the data sets, get one\n"
            "  supervise -- COMMAND           keep a run alive, started again where it dies\n\n"
            "Each command explains itself with --help."
        )
    if name not in commands:
        raise UserError(
            f"There is no command {name!r}; there are {', '.join(commands)}"
            f"{flags.nearest(name, commands)}."
        )
    return commands[name]


def _prepare_process() -> None:
    """Plain messages, quiet libraries; memory and compiled programs that are kept for later."""
    beat_for_supervisor()
    host_memory.keep_freed_memory()
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setLevel(logging.INFO)
    to_terminal.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [to_terminal]
    log.setLevel(logging.DEBUG)
    logging.raiseExceptions = False  # a full disk is told once, not by every line of log.txt
    log.propagate = False  # TFDS gives the root logger a handler of its own
    # Orbax logs the whole traceback of what we tell in a sentence.
    absl.logging.set_verbosity(absl.logging.FATAL)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxgen" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
