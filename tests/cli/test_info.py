import importlib.metadata
import re

import pytest
from typer.testing import CliRunner

import fastseg
from fastseg import _numpy
from fastseg.cli import about, app


@pytest.fixture(scope="module")
def lines():
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0, result.output
    return dict(re.split(r": +", line, maxsplit=1) for line in result.output.splitlines())


def test_versions(lines):
    assert lines["fastseg"] == fastseg.__version__
    assert lines["numpy"] == importlib.metadata.version("numpy")
    assert lines["torch"] == importlib.metadata.version("torch")


def test_instruction_sets(lines):
    active, available = _numpy.instruction_set(), _numpy.available_instruction_sets()
    assert lines["instruction set"] == f"{active} (this machine runs: {', '.join(available)})"


def test_threads(lines):
    assert int(lines["threads"]) == _numpy.get_num_threads()


def test_torch_operators_load(lines):
    assert lines["torch operators"] == "load"


def test_cuda_says_what_was_built_and_verified(lines):
    if not _numpy.cuda_architectures:
        assert lines["cuda"] == "not built"
        assert "cuda verified" not in lines
        return
    assert lines["cuda"] == (
        f"built with toolkit {_numpy.cuda_toolkit} for {_numpy.cuda_architectures}"
    )
    assert lines["cuda verified"] == "under an emulator: yes, on a GPU: no"


def test_cuda_lines():
    assert about._cuda_lines(None) == {"cuda": "not built"}
    cuda = {
        "operators": ["a", "b"],
        "architectures": ["sm_80", "sm_90"],
        "toolkit": "13.0",
        "emulator_verified": True,
        "gpu_verified": False,
    }
    assert about._cuda_lines(cuda) == {
        "cuda": "built with toolkit 13.0 for sm_80, sm_90",
        "cuda operators": "a, b",
        "cuda verified": "under an emulator: yes, on a GPU: no",
    }


def test_version_option():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"fastseg {fastseg.__version__}\n"


def test_no_command_shows_help():
    result = CliRunner().invoke(app, [])
    assert "refine" in result.output and "demo" in result.output and "info" in result.output
