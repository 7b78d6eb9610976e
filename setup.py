"""Builds the two compiled modules of fastseg; everything else is in pyproject.toml.

``fastseg._C`` holds the operators registered with torch (stable ABI), ``fastseg._numpy`` the same
kernels for NumPy arrays, linked with no torch library. Both are linked from the same kernel
objects, which are compiled once per instruction set.

Environment: ``FASTSEG_CUDA`` (unset: CUDA when nvcc and CUDA sources are there; 1: CUDA or an
error; 0: CPU only), ``MAX_JOBS`` (parallel compilations), ``TORCH_CUDA_ARCH_LIST``.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

try:
    import pybind11
    import torch.utils.cpp_extension as torch_build
except ImportError as error:
    missing = str(error.name).partition(".")[0]
    raise SystemExit(
        f"fastseg: {missing} must be installed before fastseg is built; run\n"
        "    pip install torch==2.13.0 pybind11 ninja setuptools\n"
        "    pip install --no-build-isolation .\n"
        "(with build isolation pip downloads a second torch, several GB, to build against)"
    ) from error

ROOT = Path(__file__).resolve().parent
TORCH = Path(torch_build.__file__).parents[1]

# Sources in csrc/common that belong to one door only.
TORCH_DOOR = ["csrc/common/torch_door.cpp"]
CUDA_DOOR = ["csrc/common/cuda_door.cpp"]
NUMPY_DOOR = ["csrc/common/numpy_door.cpp", "csrc/common/thread_pool.cpp"]

KERNEL_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"]
CXX_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-Wall"]
# No folder of the machine that builds goes into the modules; torch's headers would put it there.
CXX_FLAGS += [f"-ffile-prefix-map={ROOT}=.", f"-ffile-prefix-map={TORCH}=torch"]
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020d000000000000"  # stable ABI of torch 2.13

# What each instruction set adds to the compiler's default for the machine, weakest first. The
# baseline is that default: it runs on every x86-64 (SSE2), or on every aarch64 (NEON).
INSTRUCTION_SETS: dict[str, list[str]] = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx512"] = [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
        "-mprefer-vector-width=256",
    ]


def sources(*patterns: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


def cuda_toolkit() -> Path | None:
    """Folder of the CUDA toolkit; torch looks for it only where it was itself built with CUDA."""
    if home := os.environ.get("CUDA_HOME"):
        nvcc = shutil.which(Path(home) / "bin" / "nvcc")
    else:
        nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        return None
    # The nvcc on the PATH may be a link or a script: ask it where it lives.
    dry_run = [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull]
    steps = subprocess.run(dry_run, capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.+)$", steps, re.MULTILINE)
    return Path(top[1] if top else Path(nvcc).parents[1]).resolve()


def cuda_build() -> tuple[list[str], Path | None]:
    """The CUDA sources to build, after ``FASTSEG_CUDA``, and the toolkit to build them with."""
    choice = os.environ.get("FASTSEG_CUDA", "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"fastseg: FASTSEG_CUDA must be 0, 1 or unset, got {choice!r}")
    if choice == "0":
        return [], None
    toolkit, found = cuda_toolkit(), sources("csrc/**/*.cu")
    missing = [] if toolkit else ["nvcc was not found (set CUDA_HOME)"]
    missing += [] if found else ["this source tree holds no CUDA sources (csrc/**/*.cu)"]
    if missing and choice == "1":
        raise SystemExit("fastseg: FASTSEG_CUDA=1, but " + " and ".join(missing))
    return ([], None) if missing else (found, toolkit)


# GPUs later than the last run its PTX, which their driver compiles.
ARCHITECTURES = "8.0;8.6;9.0;10.0;12.0+PTX"


def architectures() -> str:
    """What is built for, in nvcc's names: "sm_80, sm_86", and "compute_86" where PTX is."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", ARCHITECTURES).replace(" ", ";").split(";")
    names: list[str] = []
    for entry in filter(None, listed):
        number = entry.removesuffix("+PTX").replace(".", "")
        names += ["sm_" + number] + ["compute_" + number] * entry.endswith("+PTX")
    return ", ".join(names)


def toolkit_version(toolkit: Path) -> str:
    """ "13.0" """
    text = subprocess.run([toolkit / "bin" / "nvcc", "--version"], capture_output=True, text=True)
    found = re.search(r"release (\d+\.\d+)", text.stdout)
    return found[1] if found else "unknown"


def text_macro(name: str, text: str) -> str:
    return f'-D{name}="{text}"'


def operators() -> Extension:
    rooms = [f"csrc/{room.name}/{room.name}.cpp" for room in sorted(ROOT.glob("csrc/*/"))]
    extension = Extension(
        "fastseg._C",
        [*TORCH_DOOR, "csrc/library.cpp", *(r for r in rooms if (ROOT / r).exists())],
        include_dirs=torch_build.include_paths(),
        library_dirs=[torch_build.TORCH_LIB_PATH],
        # Never torch_cuda, or the module would not load beside a CPU build of torch.
        libraries=["torch_cpu"],
        extra_compile_args={"cxx": [*CXX_FLAGS, TORCH_TARGET], "nvcc": ["-O3", TORCH_TARGET]},
        language="c++",
    )
    cuda_sources, toolkit = cuda_build()
    if toolkit:
        torch_build.CUDA_HOME = str(toolkit)
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
        extension.sources += [*CUDA_DOOR, *sources("csrc/*/cuda/*_cuda_door.cpp"), *cuda_sources]
        extension.include_dirs.append(str(toolkit / "include"))
        extension.library_dirs += [str(toolkit / "lib64"), str(toolkit / "lib")]
        extension.libraries += ["cudart_static", "rt", "dl", "pthread"]
        extension.extra_compile_args["cxx"].append(
            text_macro("FASTSEG_CUDA_ARCHITECTURES", architectures())
        )
    return extension


def numpy_door() -> Extension:
    # Only what ``fastseg info`` says of the other module, which needs torch to be asked.
    _, toolkit = cuda_build()
    facts = []
    if toolkit:
        facts.append(text_macro("FASTSEG_CUDA_ARCHITECTURES", architectures()))
        facts.append(text_macro("FASTSEG_CUDA_TOOLKIT", toolkit_version(toolkit)))
    return Extension(
        "fastseg._numpy",
        [*NUMPY_DOOR, *sources("csrc/numpy_library.cpp", "csrc/*/*_numpy.cpp")],
        include_dirs=[pybind11.get_include()],
        extra_compile_args=[*CXX_FLAGS, *facts, "-pthread"],
        extra_link_args=["-pthread"],
        language="c++",
    )


class BuildKernels(torch_build.BuildExtension):
    """torch's ninja builder, which also compiles what the two modules share, once."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # A folder that outlives the build: pip builds in a temporary one, and would compile
        # everything again when one header has changed.
        tag = f"{sys.implementation.cache_tag}-{platform.system()}-{platform.machine()}".lower()
        self.build_temp = str(ROOT / "build" / tag)

    def build_extensions(self) -> None:
        self.objects_root = Path(self.build_temp)
        self.shared_objects: list[str] = []
        super().build_extensions()

    def build_extension(self, extension: Extension) -> None:
        if not self.shared_objects:
            self.shared_objects = self.compile_shared()
        # One folder for each module: ninja keeps its record of what is up to date beside the
        # objects.
        self.build_temp = str(self.objects_root / extension.name)
        extension.extra_objects = list(self.shared_objects)
        if platform.system() == "Linux":
            script = ROOT / "csrc" / "exports.map"
            extension.extra_link_args += [f"-Wl,--version-script={script}"]
        super().build_extension(extension)

    def compile_shared(self) -> list[str]:
        """Checks and kernels, in the order in which they must be linked.

        A template of the standard library that is not inlined is emitted in every object that
        calls it, and the linker keeps the first. The first must be one that every machine can
        run: so the objects of the weakest instruction set come first. (fastseg's own functions
        do not meet: each instruction set has a namespace of its own.)
        """
        shared = {*sources("csrc/common/*.cpp", "csrc/*/*_check.cpp")} - {
            *TORCH_DOOR,
            *CUDA_DOOR,
            *NUMPY_DOOR,
        }
        objects = self.compile_folder("common", sorted(shared), CXX_FLAGS)
        for name, flags in INSTRUCTION_SETS.items():
            common = [*CXX_FLAGS, *KERNEL_FLAGS, f"-DFASTSEG_ISA={name}"]
            objects += self.compile_folder(name, sources("csrc/*/cpu/*_cpu.cpp"), [*common, *flags])
        return objects

    def compile_folder(self, folder: str, files: list[str], flags: list[str]) -> list[str]:
        # Absolute names: ninja runs inside the output folder.
        return self.compiler.compile(
            files, output_dir=str(self.objects_root / folder), extra_postargs=list(flags)
        )


setup(
    ext_modules=[operators(), numpy_door()],
    cmdclass={"build_ext": BuildKernels},
)
