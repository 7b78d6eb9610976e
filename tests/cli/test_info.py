import importlib.metadata
import re

import pytest
from typer.testing import CliRunner

import fastseg
from fastseg import _numpy
from fastseg.cli import app


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


def test_cuda_is_not_claimed(lines):
    assert lines["cuda"] == "not built"


def test_version_option():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"fastseg {fastseg.__version__}\n"


def test_no_command_shows_help():
    result = CliRunner().invoke(app, [])
    assert "refine" in result.output and "demo" in result.output and "info" in result.output
