import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from both import outcome

import fastseg.pydensecrf

HERE = Path(__file__).parent
GOLDEN = HERE.parents[2] / "shared" / "golden" / "pydensecrf_24x32.npz"


@pytest.fixture(scope="session")
def golden():
    if not GOLDEN.exists():
        pytest.skip(f"no golden file: {GOLDEN.name} is not in ../shared/golden")
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def real_outcomes(tmp_path_factory):
    """What the real pydensecrf makes of every case, from a process that imports nothing of ours."""
    # sys.path[0] is tests/pydensecrf there, and -E keeps PYTHONPATH out.
    code = "import pydensecrf.densecrf as d, sys; sys.exit(d.__file__.endswith('.py'))"
    python = [sys.executable, "-E"]
    if subprocess.run([*python, "-c", code], cwd="/", capture_output=True).returncode:
        pytest.skip("pydensecrf is not installed (pip install pydensecrf2==1.1)")
    out = tmp_path_factory.mktemp("real") / "outcomes.pickle"
    modules = ["densecrf_cases", "utils_cases", "eigen_cases", "user_code"]
    subprocess.run([*python, str(HERE / "both.py"), *modules, str(out)], cwd="/", check=True)
    return pickle.loads(out.read_bytes())


@pytest.fixture
def installed():
    # By force: other tests of the same process compare with the real one.
    fastseg.pydensecrf.install(force=True)
    yield
    fastseg.pydensecrf.uninstall()


@pytest.fixture
def same_as_real(real_outcomes, installed):
    """Asserts that a case has the same outcome here as with the real pydensecrf."""

    def compare(module, key, atol):
        expected = real_outcomes[module.__name__, key]
        actual = outcome(module.CASES[key])
        assert actual[0] == expected[0], f"{actual} against {expected}"
        assert_same(actual[1], expected[1], atol)

    return compare


def assert_same(actual, expected, atol):
    assert type(actual) is type(expected), f"{actual!r} against {expected!r}"
    if isinstance(actual, dict):
        assert actual.keys() == expected.keys()
        for key in actual:
            assert_same(actual[key], expected[key], atol)
    elif isinstance(actual, list):
        assert len(actual) == len(expected)
        for item, wanted in zip(actual, expected, strict=True):
            assert_same(item, wanted, atol)
    elif isinstance(actual, np.ndarray):
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        if actual.dtype.kind == "f":
            np.testing.assert_allclose(actual, expected, rtol=atol, atol=atol)
        else:
            # Labels: a pixel whose two best labels tie may go either way.
            assert (actual != expected).mean() <= 0.002
    elif isinstance(actual, float):
        assert actual == pytest.approx(expected, rel=1e-4, abs=atol)
    else:
        assert actual == expected
