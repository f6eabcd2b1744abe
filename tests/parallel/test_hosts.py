"""Processes that agree, told by threads with a key-value store between them."""

import threading
import time

import jax
import pytest
from etils import epath

from jaxgen.errors import UserError, sentence_of
from jaxgen.parallel import hosts, watch
from jaxgen.parallel.hosts import ALONE, Hosts, Rendezvous, joined
from jaxgen.parallel.watch import TRY_AGAIN, Watch, exchange_failed


class Store:
    """What `jax.distributed`'s client has, in this process."""

    def __init__(self):
        self.values, self.silent = {}, False

    def key_value_set(self, key, value, allow_overwrite=False):
        if self.silent:
            raise RuntimeError("unavailable")
        self.values[key] = value

    def key_value_dir_get(self, prefix):
        if self.silent:
            raise RuntimeError("unavailable")
        return [(k, v) for k, v in list(self.values.items()) if k.startswith(prefix)]

    def blocking_key_value_get(self, key, timeout_in_ms):
        return self.values[key]

    def wait_at_barrier(self, name, timeout_in_ms):
        pass


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(hosts, "_client", lambda: store)
    monkeypatch.setattr(watch, "_EVERY", 0.02)
    monkeypatch.setattr(Watch, "_answer_abort", lambda self: None)
    return store


@pytest.fixture
def left(monkeypatch):
    """The statuses with which processes would have left."""
    statuses = []
    monkeypatch.setattr(watch, "leave", statuses.append)
    return statuses


def watching(store, process, processes=2, silence=0.3):
    return Watch(store, process, processes, "host:1", silence)


def wait_for(condition, seconds=5):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.01)


def test_who_falls_silent_ends_all(store, left, caplog):
    first, second = watching(store, 0, 3), watching(store, 1, 3)
    store.key_value_set("jaxgen/beat/2", "1")  # and no more
    began = time.time()
    wait_for(lambda: len(left) == 2)
    assert left == [TRY_AGAIN, TRY_AGAIN] and time.time() - began > 0.2
    assert "Nothing was heard of process 2" in next(
        value for key, value in store.values.items() if key.startswith("jaxgen/verdict")
    )
    first.stop(), second.stop()


def test_the_first_process_doesnt_answer(store, left):
    other = watching(store, 1)
    store.silent = True
    wait_for(lambda: left)
    assert left == [TRY_AGAIN]
    other.stop()


def test_nobody_leaves_while_all_are_heard_and_one_tells_why_it_ends(store, left):
    both = watching(store, 0), watching(store, 1)
    time.sleep(0.6)
    assert not left
    both[1].tell("the loss was NaN", 1)
    wait_for(lambda: left)
    assert left == [1]
    both[0].stop()


def test_processes_that_were_asked_the_same_agree(store, monkeypatch):
    first, second = Hosts(watching(store, 0)), Hosts(watching(store, 1))
    content = {"config": {"width": 5, "rate": 0.1}, "setting": "tiny"}
    first.agree(content)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    second.agree(content)
    with pytest.raises(UserError, match=r"disagree on config.width: process 0 has 5.*1 has 6"):
        second.agree({"config": {"width": 6, "rate": 0.1}, "setting": "tiny"})
    first.watch.stop(), second.watch.stop()


def test_a_directory_that_one_host_cannot_see(store, tmp_path, monkeypatch):
    first, second = Hosts(watching(store, 0)), Hosts(watching(store, 1))
    here, there = epath.Path(tmp_path / "here"), epath.Path(tmp_path / "there")
    here.mkdir(), there.mkdir()
    seen = threading.Event()
    store.wait_at_barrier = lambda name, timeout_in_ms: seen.wait(5)
    of_first = threading.Thread(target=first.check_shared, args=(here,))
    of_first.start()
    wait_for(lambda: "jaxgen/mark" in store.values)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(UserError, match=r"Process 1 \(on .*\) can't see .*there of process 0"):
        second.check_shared(there)
    seen.set()
    second.check_shared(here)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    of_first.join()
    first.watch.stop(), second.watch.stop()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (Rendezvous("host:1", 2), "--process I"),
        (Rendezvous("", 2, 0), "--coordinator HOST:PORT"),
        (Rendezvous("host:1", 2, 2), "no process 2 of 2"),
        (Rendezvous("host", 2, 1), "'host' is no HOST:PORT"),
    ],
)
def test_a_rendezvous_that_is_none(flags, said):
    with pytest.raises(UserError, match=said):
        joined(flags)


def test_without_others_nothing_is_started(monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert joined(Rendezvous()) is ALONE
    assert joined(Rendezvous("host:1", 1, 0)) is ALONE
    assert ALONE.first and ALONE.alone and ALONE.from_first("x", "mine") == "mine"
    ALONE.agree({"anything": 1})
    ALONE.barrier("anywhere")
    ALONE.finished()


def test_a_tpu_that_knows_of_no_others_trains_alone(monkeypatch):
    def unknown(*place, **waits):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(hosts, "_on_a_tpu", lambda: True)
    monkeypatch.setattr(jax.distributed, "initialize", unknown)
    gave_up = []
    monkeypatch.setattr(hosts, "leave", gave_up.append)
    assert joined(Rendezvous(patience=1)) is ALONE
    time.sleep(1.2)
    assert not gave_up
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")  # there are others: nobody trains alone
    with pytest.raises(ValueError, match="should be defined"):
        joined(Rendezvous(patience=1))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "two")
    with pytest.raises(UserError, match="SLURM_STEP_NUM_TASKS is 'two'; it has to be a number"):
        joined(Rendezvous())


def test_clusters_are_recognized(monkeypatch):
    started = []
    monkeypatch.setattr(hosts, "_started", lambda *place: started.append(place) or ALONE)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    joined(Rendezvous(patience=7))
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    joined(Rendezvous())
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "true")  # as GKE has it
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert joined(Rendezvous()) is ALONE and len(started) == 2
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host-0.jobset,host-1.jobset")
    joined(Rendezvous(patience=8))
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES")
    for name, value in (
        ("COORDINATOR_ADDRESS", "a:1"),
        ("NUM_PROCESSES", "3"),
        ("PROCESS_ID", "2"),
    ):
        monkeypatch.setenv(f"JAX_{name}", value)
    joined(Rendezvous())
    automatic = [(None, None, None, patience) for patience in (7, 300, 8)]
    assert started == [*automatic, ("a:1", 3, 2, 300)]


def test_errors_of_an_exchange_are_told_from_those_of_a_file(monkeypatch):
    gone = "UNKNOWN: Gloo AllGather failed: Connection closed by peer"
    lost = (jax.errors.JaxRuntimeError("INTERNAL: failed"), ValueError(gone))
    told = UserError("A checkpoint could not be saved.")
    told.__cause__ = lost[1]
    others = (
        ValueError("INTERNAL: error reading [source locations='tensorstore/file.cc']"),
        ValueError("shapes differ"),
        UserError("UNKNOWN: is no setting"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    )
    assert sentence_of(others[-1]).startswith("The devices are out of memory (RESOURCE_EXHAUSTED:")
    assert not any(exchange_failed(error) for error in lost)  # by one process, nothing is exchanged
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert all(exchange_failed(error) for error in (*lost, told))
    assert not any(exchange_failed(error) for error in others)
