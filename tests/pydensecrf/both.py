"""Runs the same cases on this package and, in a process of its own, on the real pydensecrf.

A process of its own because the real one may crash, and because ``install()`` must not find it
imported. As a script: ``python both.py MODULE... OUT`` pickles the outcome of every case of the
modules, each a dict ``CASES`` of functions without arguments, into OUT.
"""

import importlib
import pickle
import sys
import warnings

import numpy as np


def plain(value):
    """``value`` with every matrix of pydensecrf's replaced by an array."""
    if isinstance(value, (str, bool, int, float, type(None))):
        return value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return np.array(value)


def outcome(case):
    """("value", what ``case`` returns), or ("error", the name of the exception it raises)."""
    try:
        return "value", plain(case())
    except Exception as error:
        return "error", type(error).__name__


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    *modules, out = sys.argv[1:]
    outcomes = {}
    for name in modules:
        for key, case in importlib.import_module(name).CASES.items():
            outcomes[name, key] = outcome(case)
    with open(out, "wb") as file:
        pickle.dump(outcomes, file)
