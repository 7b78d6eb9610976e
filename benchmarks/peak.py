"""How much memory a side takes: the rise of the peak resident size, in a process of its own.

``python -m benchmarks.peak MODULE CASE SETTING SIDE THREADS FOLDER REPEATS`` is that process: it
loads the scene's arrays from FOLDER, calls the side of MODULE's suite, and prints JSON: ``peak``,
the rise over the first call in bytes, and ``seconds`` of each of the calls.
"""

import gc
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import REPOSITORY, Call, Entrant, Scene, Suite, interleave


def resident(key: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (highest so far) of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def rise_of_peak(call: Call) -> tuple[int, float]:
    """How far the resident size rose during a call above what it was before, and the seconds.

    In bytes, the result counted and the arguments not. Linux only: the kernel's high-water mark is
    reset to the present size first.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    rise = max(0, resident("VmHWM") - before)
    del result
    return rise, seconds


def can_measure_memory() -> bool:
    """Whether the high-water mark of the resident size can be read and reset."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def peak_memory(
    suite: Suite, case: Any, scene: Scene, entrants: Sequence[Entrant]
) -> list[float | None]:
    """The rise of the peak resident size of each entrant's first call, in a fresh process each."""
    if not can_measure_memory():
        return [None] * len(entrants)
    with tempfile.TemporaryDirectory() as folder:
        save_scene(scene, Path(folder))
        return [run_alone(suite, case, entrant, Path(folder))["peak"] for entrant in entrants]


def save_scene(scene: Scene, folder: Path) -> None:
    """One file an array, for the other process to load."""
    for name, array in scene.items():
        np.save(folder / f"{name}.npy", array)


def run_alone(
    suite: Suite, case: Any, entrant: Entrant, folder: Path, repeats: int = 1
) -> dict[str, Any]:
    """Run an entrant in a new interpreter on the scene in ``folder``: what :func:`main` says."""
    arguments = [suite.module, case.id, case.setting, entrant.side.name, str(entrant.threads)]
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", *arguments, str(folder), str(repeats)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        raise RuntimeError(f"benchmarks.peak {shlex.join(arguments)} failed:\n{child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def main(
    module: str, case_id: str, setting: str, side: str, threads: str, folder: str, repeats: str
) -> None:
    """What :func:`run_alone` runs in the new interpreter."""
    suite = import_module(module).SUITE
    case = next(case for case in suite.cases if (case.id, case.setting) == (case_id, setting))
    scene = {path.stem: np.load(path) for path in sorted(Path(folder).glob("*.npy"))}
    call = suite.side(side).prepare(case, scene, int(threads))
    peak, seconds = rise_of_peak(call)
    again = interleave([call], int(repeats) - 1)[0].seconds
    print(json.dumps({"peak": peak, "seconds": [seconds, *again]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
