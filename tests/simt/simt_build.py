"""Builds CUDA sources as C++ for the emulator, by ninja, below build/simt.

    python tests/simt/simt_build.py library address    # prints the path of the library

Variants: ``plain``, ``address`` (AddressSanitizer and UndefinedBehaviorSanitizer), ``thread``
(ThreadSanitizer, to which every CUDA thread is a thread), ``aarch64`` (cross-compiled).
"""

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = ROOT / "tests" / "simt"
BUILD = ROOT / "build" / "simt"


@dataclass(frozen=True)
class Variant:
    """What the kernels are compiled and linked with; the emulator itself is not instrumented."""

    kernels: tuple[str, ...]
    emulator: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    compiler: str = "g++"


VARIANTS = {
    "plain": Variant(("-O2", "-g1")),
    "address": Variant(
        ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
        ("-DSIMT_ADDRESS_SANITIZER",),
        ("-fsanitize=address,undefined",),
    ),
    "thread": Variant(
        ("-O1", "-g", "-fsanitize=thread"),
        ("-DSIMT_THREAD_SANITIZER",),
        ("-fsanitize=thread",),
    ),
    "aarch64": Variant(("-O1",), (), ("-static",), "aarch64-linux-gnu-g++"),
}

# -Wno-psabi: no object meets one of another compiler.
FLAGS = ("-std=c++17", "-Wall", "-Wno-psabi", "-fPIC", "-fno-strict-aliasing",
         "-fvisibility=hidden", "-DFASTSEG_SIMT",
         "'-DFASTSEG_CUDA_ARCHITECTURES=\"sm_90, sm_80, compute_90\"'")  # fmt: skip
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020d000000000000"


@dataclass
class Target:
    """One program or library, and what it is made of."""

    name: str
    variant: Variant
    shared: bool
    include: list[Path]
    emulator: list[Path] = field(default_factory=list)  # never instrumented
    kernels: list[Path] = field(default_factory=list)
    doors: list[Path] = field(default_factory=list)  # host code
    libraries: list[str] = field(default_factory=list)


def cuda_headers() -> Path | None:
    """Folder of the CUDA toolkit's headers, which are all of it that the emulator needs."""
    homes = [Path(os.environ["CUDA_HOME"])] if "CUDA_HOME" in os.environ else []
    if nvcc := shutil.which("nvcc"):
        homes.append(Path(nvcc).resolve().parents[1])
    homes.append(Path("/usr/local/cuda"))
    for home in homes:
        if (home / "include" / "cuda_fp16.h").exists():
            return home / "include"
    return None


def ninja() -> str | None:
    beside = Path(sys.executable).with_name("ninja")
    return shutil.which("ninja") or (str(beside) if beside.exists() else None)


def missing(variant: str = "plain") -> str | None:
    """What this machine lacks to build a variant, in words, or None."""
    compiler = VARIANTS[variant].compiler
    lacks = [] if shutil.which(compiler) else [compiler]
    lacks += [] if ninja() else ["ninja"]
    lacks += [] if cuda_headers() else ["the CUDA toolkit's headers"]
    if variant == "aarch64" and not shutil.which("qemu-aarch64-static"):
        lacks.append("qemu-aarch64-static")
    return "missing: " + ", ".join(lacks) if lacks else None


def emulator_sources() -> list[Path]:
    return sorted(p for p in EMULATOR.glob("*.cpp") if not p.name.endswith("_test.cpp"))


def build_program(variant: str, name: str = "emulator_test") -> Path:
    """The emulator's own tests, or others that need no Python."""
    return build(
        variant,
        Target(
            name,
            VARIANTS[variant],
            False,
            [cuda_headers()],
            emulator_sources(),
            [EMULATOR / f"{name}.cpp"],
        ),
    )


def build_library(variant: str) -> Path:
    """fastseg's CUDA kernels and their doors, as operators of the namespace ``fastseg_simt``."""
    import torch.utils.cpp_extension as torch_build

    names = "buffer", "check", "cuda_door", "torch_door"
    common = [ROOT / "csrc" / "common" / f"{name}.cpp" for name in names]
    return build(
        variant,
        Target(
            "libfastseg_simt.so",
            VARIANTS[variant],
            True,
            [cuda_headers(), *map(Path, torch_build.include_paths())],
            emulator_sources(),
            sorted(ROOT.glob("csrc/*/cuda/*.cu")),
            [*common, *sorted(ROOT.glob("csrc/*/*_check.cpp")),
             *sorted(ROOT.glob("csrc/*/cuda/*_door.cpp"))],
            [f"-L{torch_build.TORCH_LIB_PATH}", "-ltorch_cpu"],
        ),
    )  # fmt: skip


def build(variant: str, target: Target) -> Path:
    folder = BUILD / variant / target.name.partition(".")[0]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # pytest's workers all ask for it
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = ninja_file(target)
        file = folder / "build.ninja"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        jobs = os.environ.get("MAX_JOBS")
        command = [ninja(), "-C", str(folder), *(["-j", jobs] if jobs else [])]
        # A sanitizer that is in this process from its start is not for the compiler.
        clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        done = subprocess.run(command, capture_output=True, text=True, env=clean)
        if done.returncode != 0:
            raise RuntimeError(f"building {target.name} for the emulator failed\n{done.stdout}")
    return folder / target.name


def ninja_file(target: Target) -> str:
    include = [f"-I{ROOT / 'tests'}", *(f"-isystem {path}" for path in target.include)]
    flags = " ".join([*FLAGS, TORCH_TARGET, *include])
    link = " ".join([*target.variant.link, "-shared" if target.shared else "", *target.libraries])
    compile = f"{target.variant.compiler} {flags} $flags -MMD -MF $out.d -x c++ -c $in -o $out"
    lines = [
        "rule compile",
        f"  command = {compile}",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {target.variant.compiler} $in -o $out {link}",
    ]
    objects = []
    for sources, own in (
        (target.emulator, ["-O2", *target.variant.emulator]),
        (target.kernels, [*target.variant.kernels, *target.variant.emulator]),
        (target.doors, ["-O1"]),
    ):
        for source in sources:
            objects.append(f"{source.stem}.o")
            lines.append(f"build {objects[-1]}: compile {source}\n  flags = {' '.join(own)}")
    lines.append(f"build {target.name}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    what, variant = sys.argv[1:]
    if reason := missing(variant):
        raise SystemExit(reason)
    print({"library": build_library, "program": build_program}[what](variant))
