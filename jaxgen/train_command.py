"""`jaxgen train` and `jaxgen resume`, by one process or by several together."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal

from etils import epath

from jaxgen import flags
from jaxgen.errors import sentence_of
from jaxgen.parallel.hosts import ALONE, Hosts, Rendezvous, joined
from jaxgen.parallel.watch import exchange_failed
from jaxgen.sample_command import say
from jaxgen.training import beginning, experiment_file, run_directory, runs
from jaxgen.training.experiment_file import ExperimentFile
from jaxgen.training.goodput import account, told
from jaxgen.training.interruption import Interrupted
from jaxgen.training.metrics import read_lines
from jaxgen.training.profiling import steps_to_profile
from jaxgen.training.run_directory import RunDirectory

log = logging.getLogger("jaxgen")


def train(arguments: list[str]) -> None:
    """`jaxgen train EXPERIMENT.py`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        return say(
            "usage: jaxgen train EXPERIMENT.py [--setting NAME] [flags]\n\n"
            "Trains an experiment; `jaxgen train EXPERIMENT.py --help` lists its flags."
        )
    with _together(arguments[1:]) as hosts:
        file = experiment_file.read(experiment_file.find(arguments[0]))
        setting = flags.setting(arguments[1:], file.settings)
        chosen = flags.parse(
            _train_flags(file, setting),
            arguments[1:],
            program=f"jaxgen train {arguments[0]}",
            description=file.documentation,
        )
        profile = steps_to_profile(chosen.profile)
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        required = {name: getattr(chosen, name) for name in file.requires if getattr(chosen, name)}
        # Clocks differ: the first process says where.
        usual = hosts.from_first("run", chosen.run or _unused(f"runs/{file.name}/{stamp}"))
        place = chosen.run or usual
        run = beginning.begin(
            place,
            file,
            setting,
            chosen.config,
            chosen.options,
            required,
            ["jaxgen", "train", *arguments],
            hosts,
        )
        _carry_on(run, chosen.options, hosts, profile)


def _unused(path: str) -> str:
    """`path`, or the first of path-2, path-3, ... that isn't there: two may start in a second."""
    number, name = 1, path
    while epath.Path(name).exists():
        number += 1
        name = f"{path}-{number}"
    return name


def _train_flags(file: ExperimentFile, setting: str) -> list[flags.Field]:
    """The flags that every experiment has, and this one's own."""
    names = Literal[tuple(file.settings)]
    return [
        flags.flag("setting", names, setting, "which of SETTINGS to start from"),
        flags.flag("run", str, "", "new run directory (runs/EXPERIMENT/TIME)"),
        *(
            flags.flag(name, str, "", f"a finished run of {needed}; left out, one is trained first")
            for name, needed in file.requires.items()
        ),
        flags.group("config", file.config_type, file.settings[setting]),
        flags.group("options", beginning.Options, beginning.Options()),
        *_process_flags(),
    ]


def resume(arguments: list[str]) -> None:
    """`jaxgen resume RUN`."""
    if not arguments or arguments[0].startswith("-"):
        return say(
            "usage: jaxgen resume RUN [flags]\n\n"
            "Continues a run from its newest whole checkpoint; on the same devices, bitwise as if "
            "it hadn't stopped.\n`jaxgen resume RUN --help` lists what may be another this time."
        )
    with _together(arguments[1:]) as hosts:
        run = run_directory.open_run(arguments[0])
        chosen = flags.parse(
            [
                flags.group("options", beginning.Options, beginning.options_of(run)),
                *_process_flags(),
            ],
            arguments[1:],
            f"jaxgen resume {arguments[0]}",
            "Continues a run from its newest whole checkpoint; what is given here holds for this "
            "time only.",
        )
        hosts.agree(
            {
                "run": str(run.path.resolve()),
                "options": dataclasses.asdict(chosen.options),
                "versions": run_directory.environment()["versions"],
            }
        )
        hosts.check_shared(run.path)
        _carry_on(run, chosen.options, hosts, steps_to_profile(chosen.profile))


def _process_flags() -> list[flags.Field]:
    """What is said of this time and this process, not of the run."""
    return [
        flags.flag("profile", str, "", "START:STOP, steps to trace for XProf into RUN/profile"),
        flags.group("rendezvous", Rendezvous, Rendezvous()),
    ]


@contextmanager
def _together(arguments: Sequence[str]) -> Iterator[Hosts]:
    """Meets the other processes, if there are any; whatever happens to one of them ends all."""
    if {"-h", "--help"} & set(arguments):
        yield ALONE
        return
    hosts = joined(flags.only(Rendezvous, arguments))
    if not hosts.first:
        for handler in log.handlers:
            handler.setLevel(logging.WARNING)
    try:
        try:
            yield hosts
        except Interrupted:
            hosts.finished()
            raise
        hosts.finished()
    except BaseException as error:
        if hosts.alone or isinstance(error, Interrupted):
            raise
        if exchange_failed(error):
            hosts.lost(error)
        said = sentence_of(error)
        known = said or isinstance(error, SystemExit | KeyboardInterrupt)
        log.error("jaxgen: %s", said or repr(error), exc_info=None if known else error)
        hosts.failed(said or repr(error), _status(error))


def _status(error: BaseException) -> int:
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _carry_on(
    run: RunDirectory, options: beginning.Options, hosts: Hosts, profile: tuple[int, int] | None
) -> None:
    """Trains to the end and says where everything lies, or how to go on."""
    began = time.time()
    try:
        with run_directory.logged(run) if hosts.first else nullcontext():
            scores = runs.carry_on(run, options, hosts, profile)
    except Interrupted as stopped:
        log.info("Stopped after step %d; everything is saved. To go on:", stopped.step)
        log.info("  jaxgen resume %s", run.path)
        raise
    if hosts.first:
        _tell(run, scores, time.time() - began)


def _tell(run: RunDirectory, scores: Mapping[str, float], took: float) -> None:
    pictures = sorted((run.path / "samples").iterdir()) if (run.path / "samples").exists() else []
    checkpoints = sorted(int(c.name) for c in run.checkpoints.iterdir() if c.name.isdigit())
    minutes, seconds = divmod(round(took), 60)
    log.info("\nDone in %d:%02d.", minutes, seconds)
    log.info("%s.", told(account(read_lines(run.path / "goodput.jsonl"))))
    for name, value in scores.items():
        log.info("  %-42s %.4f", name, value)
    if pictures:
        for sample in sorted(pictures[-1].iterdir()):
            log.info("  samples     %s", sample)
    log.info("  scores      %s", run.path / "scores.json")
    log.info("  checkpoint  %s", run.checkpoints / str(checkpoints[-1]))
    log.info("Next:")
    if pictures:
        log.info("  jaxgen sample %s --help", run.path)
    log.info("  jaxgen evaluate %s", run.path)
