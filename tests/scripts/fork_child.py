"""Forks while the pool has threads, and while they are at work. Prints "same"."""

import os
import threading

import numpy as np
from small_scene import infer

from fastseg import _numpy

_numpy.set_num_threads(3)
expected = infer()
stop = threading.Event()


def work() -> None:
    while not stop.is_set():
        infer(1)


busy = threading.Thread(target=work)
busy.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(infer(), expected) for _ in range(2))
        # fork() copied one thread; the child has started two more of its own.
        threads = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 3
        os._exit(0 if same and threads == 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
busy.join()
assert np.array_equal(infer(), expected)
print("same")
