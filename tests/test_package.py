"""The package as a whole: what importing it costs, what it is built of, what it says of itself."""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import fastseg
import fastseg._C
from fastseg import _numpy
from fastseg._info import CUDA_OPERATORS

ROOT = Path(__file__).resolve().parents[1]
CHECKOUT = (ROOT / "setup.py").exists() and Path(fastseg.__file__).parent.parent == ROOT


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def output_of(code: str, **environment: str) -> str:
    done = run_python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_does_not_load_torch():
    code = """
import sys, fastseg, fastseg._info, fastseg._numpy, fastseg.pydensecrf.densecrf
print("torch" in sys.modules)
"""
    assert output_of(code) == "False"


def test_numpy_door_works_without_torch():
    code = """
import sys
sys.modules["torch"] = None  # importing it is an ImportError
from fastseg import _numpy
field = _numpy.MeanField((2, 3), 2)
field.add_kernel(_numpy.image_features((2, 3), (3, 3)), 1.0)
print(field.run([[0.0] * 6, [1.0] * 6], 5).argmax(0).tolist())
"""
    assert output_of(code) == "[0, 0, 0, 0, 0, 0]"


@pytest.mark.parametrize("name", fastseg.__all__)
def test_every_public_name_exists(name):
    assert name in dir(fastseg)
    assert getattr(fastseg, name) is getattr(fastseg, name)


def test_unknown_name():
    with pytest.raises(AttributeError, match=r"^module 'fastseg' has no attribute 'dense_crf'$"):
        _ = fastseg.dense_crf


def test_build_info():
    info = fastseg.build_info()
    assert info["version"] == fastseg.__version__
    assert info["instruction_set"] == _numpy.instruction_set()
    assert info["instruction_sets"] == _numpy.available_instruction_sets()
    assert info["num_threads"] == _numpy.get_num_threads()
    assert info["numpy"] == np.__version__
    assert info["torch"] == torch.__version__
    key = torch._C._dispatch_has_kernel_for_dispatch_key
    built = [name for name in CUDA_OPERATORS if key(f"fastseg::{name}", "CUDA")]
    if info["cuda"] is None:
        assert built == []
    else:
        assert built == info["cuda"]["operators"] == list(CUDA_OPERATORS)
        assert info["cuda"]["architectures"] == _numpy.cuda_architectures.split(", ")


def test_doors_hold_the_same_instruction_sets():
    sets = _numpy.available_instruction_sets()
    assert sets == fastseg._C.available_instruction_sets()
    assert sets[-1] == "baseline"
    assert sets == [name for name in ("avx512", "avx2", "baseline") if name in sets]


PRINT_SETS = """
import torch, fastseg._C, fastseg._numpy
print(fastseg._C.instruction_set(), fastseg._numpy.instruction_set())
"""


@pytest.mark.parametrize("name", ["", *_numpy.available_instruction_sets()[1:]])
def test_environment_forces_an_instruction_set(name):
    expected = name or _numpy.available_instruction_sets()[0]
    assert output_of(PRINT_SETS, FASTSEG_ISA=name) == f"{expected} {expected}"


UNKNOWN = (
    "FASTSEG_ISA must be one of "
    + ", ".join(_numpy.available_instruction_sets())
    + " on this machine, got 'sse9'"
)


def test_unknown_instruction_set_in_the_environment():
    code = """
import torch, fastseg, fastseg.ops, fastseg._C, fastseg._numpy
calls = [
    fastseg._C.instruction_set,
    fastseg._numpy.instruction_set,
    lambda: fastseg._numpy.MeanField((2, 2), 2),
    fastseg.build_info,
    lambda: fastseg.ops.permutohedral_lattice(torch.zeros(1, 2, 3, 3)),
]
for call in calls:
    try:
        call()
    except ValueError as error:
        print(error)
"""
    assert output_of(code, FASTSEG_ISA="sse9") == "\n".join([f"fastseg: {UNKNOWN}"] * 5)


@pytest.mark.parametrize("door", [fastseg._C, _numpy], ids=["torch", "numpy"])
def test_unknown_instruction_set(door):
    before = door.instruction_set()
    message = UNKNOWN.replace("FASTSEG_ISA", "set_instruction_set: name")
    with pytest.raises(ValueError) as error:
        door.set_instruction_set("sse9")
    assert str(error.value) == message
    with pytest.raises(TypeError):
        door.set_instruction_set(2)
    assert door.instruction_set() == before


def test_instruction_sets_agree(instruction_set):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (15, 22, 3), dtype=np.uint8)
    unary = rng.standard_normal((5, 15 * 22)).astype(np.float32)

    def infer() -> np.ndarray:
        field = _numpy.MeanField((15, 22), 5)
        field.add_kernel(_numpy.image_features((15, 22), (3, 3)), 3.0)
        field.add_kernel(_numpy.image_features((15, 22), (30, 30), image, (60, 60, 60)), 4.0)
        return field.run(unary, 5)

    probs = infer()
    np.testing.assert_array_equal(probs, infer())
    _numpy.set_instruction_set("baseline")
    # Rounding alone tells instruction sets apart (fused multiply-add, order within vectors).
    np.testing.assert_allclose(probs, infer(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", [fastseg._C, _numpy], ids=["torch", "numpy"])
def test_no_folder_of_the_build_machine_in_the_modules(module):
    binary = Path(module.__file__).read_bytes()
    for folder in (ROOT, Path(torch.__file__).parent):
        assert os.fsencode(folder) + b"/" not in binary


def test_metadata():
    metadata = importlib.metadata.metadata("fastseg-kernels")
    assert metadata["Version"] == fastseg.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    requires = set(metadata.get_all("Requires-Dist"))
    assert "torch>=2.13" in requires
    assert 'pydensecrf2==1.1; extra == "bench"' in requires
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="fastseg")
    assert script.value == "fastseg.cli:main"


def setup_py(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


needs_checkout = pytest.mark.skipif(not CHECKOUT, reason="no setup.py: not a source checkout")


@needs_checkout
def test_cuda_must_be_there_when_asked_for(tmp_path):
    # A PATH and a CUDA_HOME without nvcc.
    done = setup_py("--version", FASTSEG_CUDA="1", CUDA_HOME=str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "fastseg: FASTSEG_CUDA=1, but nvcc was not found (set CUDA_HOME)"
    )


@needs_checkout
def test_unknown_cuda_choice():
    done = setup_py("--version", FASTSEG_CUDA="yes")
    assert done.returncode == 1
    assert done.stderr.strip() == "fastseg: FASTSEG_CUDA must be 0, 1 or unset, got 'yes'"


@needs_checkout
@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (None, "sm_80, sm_86, sm_90, sm_100, sm_120, compute_120"),
        ("9.0;8.0", "sm_90, sm_80"),
        ("8.6+PTX 9.0a", "sm_86, compute_86, sm_90a"),
    ],
    ids=str,
)
def test_architectures_are_named(listed, names):
    """All of the budget's and PTX for later ones, or what the user asks for."""
    code = (
        "import runpy, setuptools; setuptools.setup = lambda **_: None; "
        "print(runpy.run_path('setup.py')['architectures']())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TORCH_CUDA_ARCH_LIST"}
    environment |= {"TORCH_CUDA_ARCH_LIST": listed} if listed else {}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.stdout.strip() == names, done.stderr


@needs_checkout
def test_build_without_torch_says_what_to_do():
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path('setup.py')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "fastseg: torch must be installed before fastseg is built" in done.stderr
    assert "pip install torch==2.13.0" in done.stderr
    assert "--no-build-isolation" in done.stderr


@needs_checkout
def test_source_distribution_holds_what_a_build_needs(tmp_path):
    egg_info = tmp_path / "egg"
    egg_info.mkdir()
    done = setup_py("egg_info", "--egg-base", str(egg_info), "sdist", "--dist-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"LICENSE", "README.md", "Makefile", "pyproject.toml", "setup.py"}
    for folder in ("csrc", "fastseg", "tests"):
        for path in (ROOT / folder).rglob("*"):
            generated = path.suffix in (".pyc", ".so") or path.name.startswith(".")
            if path.is_file() and not generated:
                wanted.add(str(path.relative_to(ROOT)))
    assert wanted - packed == set()


@needs_checkout
def test_wheel_holds_python_and_data_but_no_sources(tmp_path):
    done = setup_py("build_py", "--build-lib", str(tmp_path))
    assert done.returncode == 0, done.stderr
    packed = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    for path in (ROOT / "fastseg").rglob("*"):
        if path.suffix in (".py", ".pyi", ".typed") or path.parent.name == "demo":
            assert str(path.relative_to(ROOT)) in packed
    assert {name.split("/")[0] for name in packed} == {"fastseg"}
    assert not [name for name in packed if name.endswith((".cpp", ".h", ".so"))]
