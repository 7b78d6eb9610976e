"""Programs written for pydensecrf run unchanged after install(), with the same results."""

import sys

import pytest
import user_code

import fastseg.pydensecrf


@pytest.mark.parametrize("name", user_code.CASES)
def test_runs_unchanged(name, installed):
    user_code.CASES[name]()
    assert sys.modules["pydensecrf.densecrf"] is fastseg.pydensecrf.densecrf


@pytest.mark.parametrize("name", user_code.CASES)
def test_same_results(name, same_as_real):
    # Programs run up to 150 updates, in each of which a rounding error may grow.
    same_as_real(user_code, name, atol=1e-3)
