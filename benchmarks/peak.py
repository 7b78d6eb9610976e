"""The memory and time of one side of one case, in the process that this module is run in.

``python -m benchmarks.peak MODULE CASE SETTING SIDE THREADS FOLDER REPEATS`` loads the scene's
arrays from FOLDER, calls the side of MODULE's suite, and prints JSON: ``peak``, the rise of the
peak resident size over the first call in bytes, and ``seconds`` of each of the calls.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np

from benchmarks.harness import interleave, rise_of_peak


def main(
    module: str, case_id: str, setting: str, side: str, threads: str, folder: str, repeats: str
) -> None:
    suite = import_module(module).SUITE
    case = next(case for case in suite.cases if (case.id, case.setting) == (case_id, setting))
    scene = {path.stem: np.load(path) for path in sorted(Path(folder).glob("*.npy"))}
    call = suite.side(side).prepare(case, scene, int(threads))
    peak, seconds = rise_of_peak(call)
    again = interleave([call], int(repeats) - 1)[0].seconds
    print(json.dumps({"peak": peak, "seconds": [seconds, *again]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
