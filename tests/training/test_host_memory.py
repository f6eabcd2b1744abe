"""Freed memory stays with the process: seen by the pages that the system has to make anew."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import platform, resource, threading
import numpy as np
from jaxgen.training.host_memory import keep_freed_memory

def pages():
    # Beyond what an arena of a thread holds, and what glibc comes to keep by itself.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(200 << 17)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
left_alone = pages()
assert keep_freed_memory()
def in_a_thread():
    pages()
    kept.append(pages())
kept = []
thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
assert left_alone > 1000 and kept[0] < 100, (left_alone, kept)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the C library is another")
def test_a_second_array_gets_the_pages_of_the_first():
    # Of the usual size: numpy asks for huge ones, which hides how many there are.
    environment = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
