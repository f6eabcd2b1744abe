"""A supervisor restarts what is lost, tells why, stops when told, and leaves nothing behind."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxgen.errors import UserError
from jaxgen.supervision.command import supervise
from jaxgen.supervision.endings import Ending, back_off, cause, how
from jaxgen.supervision.places import Places, Where, check_start, environment, place
from jaxgen.supervision.resuming import Training, is_jaxgen, next_command, training_of

ROOT = Path(__file__).parent.parent
SUPERVISE = "import sys; from jaxgen.supervision.command import supervise; supervise(sys.argv[1:])"

# What it does in its first, second, ... life is an argument each, by process where there are
# slashes. It holds a lock, as do those that it starts, until all of them are dead.
WORKER = """
import contextlib, fcntl, json, os, signal, subprocess, sys, time

notes, *lives = sys.argv[1:]
process = int(os.environ.get("JAX_PROCESS_ID", 0))
lock = open(f"{notes}-{process}.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
with open(f"{notes}-{process}", "a+") as file:
    told = {name: os.environ[name] for name in os.environ if name.startswith("JAX")}
    file.write(json.dumps({"pid": os.getpid(), **told}) + "\\n")
    file.seek(0)
    life = len(file.readlines())
acts = lives[min(life, len(lives)) - 1].split("/")
act = acts[min(process, len(acts) - 1)]


def save(number, frame):
    time.sleep(0.2 + 0.4 * process)
    open(f"{notes}-{process}-saved", "a").write(f"{number}\\n")
    sys.exit(128 + number)


if act.isdigit():
    sys.exit(int(act))
if act.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, act))
if act.startswith("late"):
    time.sleep(0.4)
    sys.exit(int(act.removeprefix("late")))
if act == "mute":
    time.sleep(1)
    sys.exit(0)
if act == "family":
    subprocess.Popen(["sleep", "20"], pass_fds=[lock.fileno()])
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
until = time.monotonic() + 20  # whatever a test that fails leaves behind
while time.monotonic() < until:
    with contextlib.suppress(FileNotFoundError):
        os.utime(os.environ["JAXGEN_HEARTBEAT"])
    open(f"{notes}-{process}-ready", "w")
    time.sleep(0.05)
"""

# Stands in for jaxgen: `train` makes a run directory unless there is one, and is killed in it.
JAXGEN = """#!{python}
import os, sys
from pathlib import Path

command, *rest = sys.argv[1:]
run = Path(rest[rest.index("--run") + 1] if command == "train" else rest[0])
with open("commands", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if command == "train":
    if (run / "config.json").exists():
        sys.exit(1)
    run.mkdir()
    (run / "config.json").touch()
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def worker(tmp_path):
    file = tmp_path / "worker.py"
    file.write_text(WORKER)
    return lambda *lives: [sys.executable, "-S", str(file), str(tmp_path / "notes"), *lives]


@pytest.fixture
def started(tmp_path):
    """Starts supervisors; none is left behind."""
    running = []

    def start(flags, command):
        supervisor = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, "--backoff", "0.05", *flags, "--", *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(supervisor)
        return supervisor

    yield start
    for supervisor in running:
        supervisor.kill()
        supervisor.wait()
        supervisor.stderr.close()


@pytest.fixture
def supervised(started):
    def run(flags, command):
        supervisor = started(flags, command)
        _, said = supervisor.communicate(timeout=20)
        assert "Traceback" not in said
        return supervisor.returncode, said

    return run


def free_port():
    with socket.create_server(("", 0)) as server:
        return str(server.getsockname()[1])


def lives_of(directory, process=0):
    lines = Path(directory, f"notes-{process}").read_text().splitlines()
    return [json.loads(line) for line in lines]


def wait_for(what, seconds=10.0):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def all_dead(directory, process=0):
    """Whether the process and all that it started have let go of their lock."""
    with Path(directory, f"notes-{process}.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# What is decided


def test_the_back_off_doubles_up_to_a_minute_until_a_long_life():
    assert [back_off(1.0, [5.0] * lives) for lives in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert back_off(0.5, [5.0, 5.0, 301.0]) == 0.5
    assert back_off(0.5, [5.0, 5.0, 301.0, 5.0, 5.0]) == 1.0
    assert back_off(1.0, [5.0] * 10_000) == 60 and back_off(0.0, [5.0] * 10_000) == 0


def test_the_cause_is_the_first_that_did_not_only_miss_another():
    missing, killed, mistaken = Ending(0, 75), Ending(1, -9), Ending(2, 1)
    assert cause([missing, killed, mistaken]) == killed
    assert cause([missing, mistaken, killed]) == mistaken
    assert cause([Ending(3, 0), missing]) == missing
    assert cause([Ending(3, 0)]) is None


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (Ending(0, -signal.SIGSEGV), "was killed by SIGSEGV"),
        (Ending(0, -signal.SIGKILL), "SIGKILL (as the system does when memory runs out)"),
        (Ending(0, -signal.SIGKILL, silent=61.23), "was silent for 61.2 s"),
        (Ending(0, 143), "was stopped by SIGTERM (status 143)"),
        (Ending(0, 75), "ended with status 75, as another process was lost"),
        (Ending(0, 3), "ended with status 3"),
        (Ending(0, 255), "was stopped by signal 127 (status 255)"),
    ],
)
def test_ends_are_told(ending, said):
    assert said in how(ending)


@pytest.mark.parametrize(
    ("command", "resume"),
    [
        ("jaxgen train x.py --run r --steps 3", "jaxgen resume r"),
        ("nice -n 5 /bin/jaxgen train x --run=r", "nice -n 5 /bin/jaxgen resume r"),
        ("python -u bin/jaxgen train --run q x --run r", "python -u bin/jaxgen resume r"),
        (
            "jaxgen train x --coordinator h:1 --processes=3 --run r --width 8 --process 2",
            "jaxgen resume r --coordinator=h:1 --processes=3 --process=2",
        ),
    ],
)
def test_training_is_resumed_by_the_same_jaxgen(command, resume):
    assert training_of(command.split()) == Training("r", tuple(resume.split()))


def test_an_experiment_is_resumed_by_the_same_python(tmp_path):
    experiment, other = tmp_path / "experiment.py", tmp_path / "other.py"
    experiment.write_text("from jaxgen.cli import main")
    other.write_text("print(1)")
    resume = ("-c", "from jaxgen.cli import main; main()", "resume", "r")
    python = ("env", "python3.11", "-u")
    assert training_of([*python, str(experiment), "--run", "r"]).resume == (*python, *resume)
    assert training_of([str(experiment), "--run", "r"]).resume == (sys.executable, *resume)
    assert training_of([*python, str(other), "--run", "r"]) is None


@pytest.mark.parametrize("command", ["jaxgen resume r", "jaxgen sample r x.py", "sh -c train"])
def test_other_commands_are_repeated(command):
    assert training_of(command.split()) is None
    assert next_command(command.split(), None) == command.split()
    assert is_jaxgen(command.split()) == command.startswith("jaxgen")


def test_a_run_is_resumed_once_it_is_there(tmp_path):
    command = ["jaxgen", "train", "x", "--run", str(tmp_path)]
    training = training_of(command)
    assert next_command(command, training) == command
    (tmp_path / "config.json").touch()
    assert next_command(command, training) == ("jaxgen", "resume", str(tmp_path))


def test_hosts_number_the_processes(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# the pod\nfe80::7\n127.0.0.1\n\n192.0.2.1  # another\nlocalhost\n")
    assert place(Where(hosts=str(file))) == Places("[fe80::7]:8476", 4, (1, 3))
    file.write_text("one\ntwo\none\n")
    where = Where(hosts=str(file), host="one", port=9)
    assert place(where) == Places("one:9", 3, (0, 2))
    assert place(Where(processes=3)) == Places("127.0.0.1:8476", 3, (0, 1, 2))


def test_processes_are_told_which_they_are(monkeypatch):
    monkeypatch.delenv("JAX_LOCAL_DEVICE_IDS", raising=False)
    said = {
        "JAX_COORDINATOR_ADDRESS": "one:9",
        "JAX_NUM_PROCESSES": "3",
        "JAX_PROCESS_ID": "2",
    }
    assert environment(Places("one:9", 3, (2,)), 2) == said
    several = environment(Places("one:9", 3, (0, 2)), 2)
    assert several == {**said, "JAX_LOCAL_DEVICE_IDS": "1"}
    assert environment(Places(None, 1, (0,)), 0) == {}


# What is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "no command to supervise"),
        ("jaxgen train x.py", "no command to supervise"),
        ("--restarts 3 --", "no command to supervise"),
        ("--processes 0 -- true", "--processes has to be at least 1, not 0"),
        ("--processes 2 --hosts h -- true", "not both"),
        ("--host h -- true", "--hosts FILE"),
        ("--hosts nowhere -- true", "read from nowhere: No such file"),
        ("--hosts empty -- true", "empty names no host"),
        ("--hosts other -- true", "other has no line for this host"),
        ("--hosts other --host 192.0.2.2 -- true", "mean 192.0.2.1"),
        ("--processes 1 --port 0 -- true", "--port has to be from 1 to 65535"),
        ("--silence nan -- true", "--silence has to be a number from 0"),
        ("--backoff -1 -- true", "--backoff has to be a number from 0"),
        ("--restart 3 -- true", "did you mean --restarts"),
        ("-- ./nowhere", "no command './nowhere'"),
        ("-- env jaxgen train x.py", "add --run DIRECTORY"),
        ("--processes 2 -- env jaxgen train x --run r --process 1", "leave --process=1 out"),
    ],
)
def test_mistakes_are_told_before_anything_starts(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("# nobody\n")
    Path("other").write_text("192.0.2.1\n")  # an address for examples, nobody's
    with pytest.raises(UserError) as refused:
        supervise(arguments.split())
    assert said in str(refused.value)


def test_a_taken_port_is_told_where_the_coordinator_is(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("here\nthere\n")
    with socket.create_server(("", 0)) as server:
        port = str(server.getsockname()[1])
        with pytest.raises(UserError, match=f"can't listen on port {port} .*--port"):
            supervise(["--processes", "1", "--port", port, "--", "true"])
        with pytest.raises(UserError, match=f"can't listen on port {port}"):
            supervise(["--hosts", str(hosts), "--host", "here", "--port", port, "--", "true"])


def test_a_port_that_was_just_used_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = Where(processes=1, port=server.getsockname()[1])
        with socket.create_connection(server.getsockname()), server.accept()[0] as answering:
            answering.close()  # the side that closes first has to remember the connection
    check_start(where, place(where))


def test_the_supervisor_is_small():
    script = "import sys, jaxgen.supervision.command; sys.exit('jax' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


# What is done


def test_it_restarts_until_done_and_says_why(supervised, worker, tmp_path):
    status, said = supervised([], worker("SIGKILL", "3", "75", "143", "0"))
    assert status == 0
    assert len(lives_of(tmp_path)) == 5
    lines = said.splitlines()
    assert len(lines) == 4
    for line, how_it_ended, count, pause in zip(
        lines,
        ("killed by SIGKILL", "status 3", "another process was lost", "stopped by SIGTERM"),
        (1, 2, 3, 4),
        ("0.05", "0.1", "0.2", "0.4"),
        strict=True,
    ):
        assert how_it_ended in line and f"restart {count} of 20 in {pause} s." in line


@pytest.mark.parametrize("status", [0, 1, 2])
def test_done_and_mistakes_are_not_restarted(status, supervised, worker, tmp_path):
    assert supervised([], worker(str(status)))[0] == status
    assert len(lives_of(tmp_path)) == 1


def test_restarts_are_limited(supervised, worker, tmp_path):
    status, said = supervised(["--restarts", "2"], worker("4", "5", "SIGABRT"))
    assert status == 128 + signal.SIGABRT
    assert len(lives_of(tmp_path)) == 3
    assert "given up after 2 restarts" in said


def test_a_lost_process_restarts_all(supervised, worker, tmp_path):
    port = free_port()
    status, said = supervised(
        ["--processes", "3", "--port", port, "--grace", "0.3"], worker("beat/SIGSEGV/75", "0")
    )
    assert status == 0
    assert "process 1 of 3 was killed by SIGSEGV" in said and len(said.splitlines()) == 1
    for process in range(3):
        lives = lives_of(tmp_path, process)
        assert len(lives) == 2
        for life in lives:
            assert life["JAX_COORDINATOR_ADDRESS"] == f"127.0.0.1:{port}"
            assert life["JAX_NUM_PROCESSES"] == "3"
            assert life["JAX_PROCESS_ID"] == str(process)
    assert not Path(tmp_path, "notes-0-saved").exists()  # it can't save without the others


def test_others_have_grace_to_say_why(supervised, worker):
    # Status 1 is the cause, though 75 was there first.
    flags = ["--processes", "2", "--port", free_port(), "--grace", "5"]
    assert supervised(flags, worker("75/late1"))[0] == 1


def test_a_stopped_process_is_killed_for_its_silence(started, worker, tmp_path):
    supervisor = started(["--silence", "0.5"], worker("beat", "0"))
    wait_for(Path(tmp_path, "notes-0-ready").exists)
    os.kill(lives_of(tmp_path)[0]["pid"], signal.SIGSTOP)
    began = time.monotonic()
    _, said = supervisor.communicate(timeout=10)
    assert 0.3 < time.monotonic() - began < 4
    assert supervisor.returncode == 0 and len(lives_of(tmp_path)) == 2
    assert "the process was silent for 0.5" in said


def test_silence_explains_why_another_was_missed(started, worker, tmp_path):
    flags = ["--processes", "2", "--port", free_port(), "--grace", "3"]
    supervisor = started(flags, worker("late75/beat", "0"))
    wait_for(Path(tmp_path, "notes-1-ready").exists)
    os.kill(lives_of(tmp_path, 1)[0]["pid"], signal.SIGSTOP)
    _, said = supervisor.communicate(timeout=10)
    assert supervisor.returncode == 0
    assert "process 1 of 2 was silent for 1" in said


def test_who_never_touched_a_heartbeat_is_not_blamed(supervised, worker, tmp_path):
    assert supervised(["--silence", "0.2"], worker("mute"))[0] == 0
    assert len(lives_of(tmp_path)) == 1


def test_jaxgen_is_watched_from_its_start(supervised, tmp_path):
    named = tmp_path / "jaxgen"
    named.write_text("#!/bin/sh\nsleep 9\n")
    named.chmod(0o755)
    status, said = supervised(
        ["--silence", "0.2", "--restarts", "0"], [str(named), "resume", "run"]
    )
    assert status == 128 + signal.SIGKILL and "was silent for 0.2" in said


def test_silence_can_be_allowed(started, worker, tmp_path):
    supervisor = started(["--silence", "0"], worker("beat"))
    wait_for(Path(tmp_path, "notes-0-ready").exists)
    os.kill(lives_of(tmp_path)[0]["pid"], signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.wait(timeout=0.5)


def test_a_run_goes_on_with_fewer_hosts_and_ends_where_none_is_left(started, worker, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost\n" * 3)
    flags = ["--hosts", str(hosts), "--port", free_port(), "--grace", "0.1", "--silence", "0.5"]
    supervisor = started(flags, worker("beat"))

    def lose_a_process(after):
        """Kills process 1 of a life once all have begun it, after editing the file."""
        ready = [tmp_path / f"notes-{process}-ready" for process in (0, 1)]
        wait_for(lambda: all(file.exists() for file in ready))
        hosts.write_text(after)
        os.kill(lives_of(tmp_path, 1)[-1]["pid"], signal.SIGKILL)
        wait_for(lambda: all(all_dead(tmp_path, process) for process in (0, 1)))
        for file in ready:
            file.unlink(missing_ok=True)

    lose_a_process("localhost\n" * 2)
    lose_a_process("192.0.2.1\n")
    _, said = supervisor.communicate(timeout=10)
    assert supervisor.returncode == 0
    assert "no longer names this host" in said
    told = [life["JAX_NUM_PROCESSES"] for life in lives_of(tmp_path)]
    assert told == ["3", "2"] and len(lives_of(tmp_path, 2)) == 1


def test_a_file_that_is_gone_changes_nothing(started, worker, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost\n")
    flags = ["--hosts", str(hosts), "--port", free_port(), "--backoff", "0.3"]
    supervisor = started(flags, worker("beat", "0"))
    wait_for(Path(tmp_path, "notes-0-ready").exists)
    hosts.unlink()
    os.kill(lives_of(tmp_path)[0]["pid"], signal.SIGKILL)
    _, said = supervisor.communicate(timeout=10)
    assert supervisor.returncode == 0 and len(lives_of(tmp_path)) == 2
    assert "hosts: No such file or directory. The hosts stay as they were." in said


def test_train_is_followed_by_resume(supervised, tmp_path):
    jaxgen = tmp_path / "jaxgen"
    jaxgen.write_text(JAXGEN.format(python=sys.executable))
    jaxgen.chmod(0o755)
    command = [str(jaxgen), "train", "x.py", "--run", "run"]
    assert supervised([], command)[0] == 0
    commands = tmp_path / "commands"
    assert commands.read_text() == "train x.py --run run\nresume run\n"
    assert supervised([], command)[0] == 0  # the run is there from the start
    assert commands.read_text().endswith("resume run\nresume run\n")


@pytest.mark.parametrize(("number", "passed_on"), [("SIGTERM", 15), ("SIGINT", 2), ("SIGHUP", 15)])
def test_signals_are_passed_on_to_be_saved_by(number, passed_on, started, worker, tmp_path):
    flags = ["--processes", "2", "--port", free_port(), "--grace", "0.1"]  # that's not for saving
    supervisor = started(flags, worker("beat"))
    ready = [tmp_path / f"notes-{process}-ready" for process in (0, 1)]
    wait_for(lambda: all(file.exists() for file in ready))
    supervisor.send_signal(getattr(signal, number))
    _, said = supervisor.communicate(timeout=10)
    assert supervisor.returncode == 128 + getattr(signal, number)
    assert said == ""
    for process in (0, 1):
        assert Path(tmp_path, f"notes-{process}-saved").read_text() == f"{passed_on}\n"
        assert len(lives_of(tmp_path, process)) == 1


def test_what_a_script_started_is_left_time_to_save(started, worker, tmp_path):
    script = tmp_path / "script.sh"
    script.write_text('"$@"\necho done\n')
    supervisor = started(["--grace", "1"], ["sh", str(script), *worker("beat")])
    wait_for(Path(tmp_path, "notes-0-ready").exists)
    supervisor.terminate()
    assert supervisor.wait(timeout=10) == 143
    assert Path(tmp_path, "notes-0-saved").read_text() == "15\n"


def test_a_second_signal_ends_at_once(started, worker, tmp_path):
    supervisor = started([], worker("beat"))
    wait_for(Path(tmp_path, "notes-0-ready").exists)
    os.kill(lives_of(tmp_path)[0]["pid"], signal.SIGSTOP)  # it can't answer the first
    supervisor.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.wait(timeout=0.3)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(timeout=2) == 143
    assert all_dead(tmp_path)


def test_a_signal_ends_the_back_off(started, worker):
    supervisor = started(["--backoff", "60"], worker("3"))
    assert "restart 1 of 20 in 60 s" in supervisor.stderr.readline()
    supervisor.terminate()
    assert supervisor.wait(timeout=2) == 143


def test_nothing_outlives_a_killed_supervisor(started, worker, tmp_path):
    supervisor = started(["--processes", "2", "--port", free_port()], worker("family"))
    for process in (0, 1):
        wait_for(Path(tmp_path, f"notes-{process}-ready").exists)
        assert not all_dead(tmp_path, process)
    supervisor.kill()
    for process in (0, 1):
        wait_for(lambda process=process: all_dead(tmp_path, process), seconds=2)


def test_what_a_process_started_is_not_left_to_the_next_life(started, worker, tmp_path):
    supervisor = started([], worker("family", "0"))
    wait_for(Path(tmp_path, "notes-0-ready").exists)
    os.kill(lives_of(tmp_path)[0]["pid"], signal.SIGKILL)
    assert supervisor.wait(timeout=10) == 0  # else the second life doesn't get the lock
    assert len(lives_of(tmp_path)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_heartbeats_are_kept_up_and_tidied_up(number, started, worker, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    supervisor = started([], worker("beat"))
    wait_for(Path(tmp_path, "notes-0-ready").exists)
    (heartbeat,) = scratch.glob("*/0")
    heartbeat.unlink()  # as whoever tidies /tmp may do
    wait_for(heartbeat.exists)
    supervisor.send_signal(number)
    supervisor.wait(timeout=10)
    wait_for(lambda: not list(scratch.iterdir()))
