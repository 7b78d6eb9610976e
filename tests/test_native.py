"""The kernels without Python: here, on an x86-64 without AVX, and on aarch64 (tests/native)."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastseg import _numpy

ROOT = Path(__file__).resolve().parents[1]
MACHINE = platform.machine().lower()
TAG = f"{sys.implementation.cache_tag}-{platform.system()}-{MACHINE}".lower()
OBJECTS = ROOT / "build" / TAG  # what setup.py compiled; the module under test is linked from it

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("bash")), reason="no g++ or no bash"
)
needs_x86 = pytest.mark.skipif(MACHINE not in ("x86_64", "amd64"), reason="not an x86-64 machine")


def needs(*tools: str):
    missing = [tool for tool in tools if not shutil.which(tool)]
    return pytest.mark.skipif(bool(missing), reason=f"missing: {', '.join(missing)}")


def run_native(target: str, *objects: str, **environment: str) -> list[str]:
    done = subprocess.run(
        ["bash", "tests/native/run.sh", target, *objects],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def built_objects() -> list[str]:
    return [str(OBJECTS)] if (OBJECTS / "baseline").exists() else []


@needs_compiler
@needs_x86
def test_on_this_machine():
    tested = [f"{name}: tested" for name in _numpy.available_instruction_sets()]
    assert run_native("native", *built_objects()) == [*tested, "thread pool: tested"]


@pytest.mark.slow
@needs_compiler
@needs_x86
@needs("qemu-x86_64-static")
def test_on_x86_without_avx():
    assert run_native("nehalem", *built_objects()) == ["baseline: tested"]


@pytest.mark.slow
@needs("aarch64-linux-gnu-g++", "qemu-aarch64-static", "bash")
def test_on_aarch64():
    """Compiled with -O0, to save time; ``make aarch64`` tests what a release would hold."""
    assert run_native("aarch64", OPTIMIZE="-O0") == ["baseline: tested"]
