import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastseg.cli import app
from fastseg.crf.presets import PRESETS

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_runs_as_printed(number, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # for the files that a block writes
    # A block that installs the drop-in changes what `import pydensecrf` means: take that back.
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydensecrf"]:
        monkeypatch.delitem(sys.modules, name)
    exec(BLOCKS[number], {})
    from fastseg import pydensecrf

    pydensecrf.uninstall()


def options_of(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def help_of(command):
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return options_of(result.output)


def test_commands_and_options_exist():
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    lines = re.findall(r"^fastseg ([a-z]+)([^#\n]*)", shell, re.MULTILINE)
    assert {command for command, _ in lines} >= {"refine", "segment", "models", "export"}
    for command, arguments in lines:
        assert options_of(arguments) <= help_of(command)
    prose = options_of(" ".join(re.findall(r"`(--[^`]*)`", README)))
    assert len(prose) > 8
    assert prose - {"--no-build-isolation"} <= help_of("refine") | help_of("segment")


def test_defaults_in_the_table_are_the_defaults():
    default = PRESETS["default"]
    for option, field in re.findall(r"^\| `--([a-z-]+)`.*\| (\d+) \|$", README, re.MULTILINE):
        assert getattr(default, option.replace("-", "_")) == float(field)
    assert len(re.findall(r"^\| `--", README, re.MULTILINE)) == 5


def test_picture_is_there_and_small():
    picture = Path(__file__).parents[2] / re.search(r"!\[.*?\]\((.*?)\)", README)[1]
    assert 0 < picture.stat().st_size < 400_000
