"""Holds every CUDA kernel to its budget of registers, shared memory and occupancy, without a GPU.

    python tools/cuda_budget.py             # fails where a kernel breaks csrc/cuda_budget.csv
    python tools/cuda_budget.py --update    # measures anew and writes it

Compiles all ``csrc/*/cuda/*.cu`` for each architecture with ``ptxas -v``. No kernel may spill
registers (a stack is for arrays that are indexed by what is not known beforehand); each must state
its block size (``__launch_bounds__``), from which the occupancy follows: warps of the kernel that
one multiprocessor can hold, of those that it could.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = ROOT / "csrc" / "cuda_budget.csv"
COLUMNS = ["kernel", "architecture", "threads", "registers", "shared_bytes", "stack_bytes",
           "occupancy"]  # fmt: skip


@dataclass(frozen=True)
class Multiprocessor:
    """CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"."""

    warps: int
    blocks: int
    shared_bytes: int


ARCHITECTURES = {
    "sm_80": Multiprocessor(64, 32, 164 * 1024),
    "sm_86": Multiprocessor(48, 16, 100 * 1024),
    "sm_90": Multiprocessor(64, 32, 228 * 1024),
    "sm_100": Multiprocessor(64, 32, 228 * 1024),
    "sm_120": Multiprocessor(48, 24, 100 * 1024),
}
REGISTERS = 65536  # of a multiprocessor, of all of these
REGISTER_UNIT, WARP_UNIT = 256, 4  # registers go to a warp, and warps to a block, in such portions
SHARED_UNIT, SHARED_OF_SYSTEM = 128, 1024  # and shared memory; so much of it the system takes


@dataclass
class Kernel:
    """What ptxas says of one kernel on one architecture."""

    name: str
    architecture: str
    threads: int = 0
    registers: int = 0
    shared_bytes: int = 0
    spilled_bytes: int = 0
    stack_bytes: int = 0

    @property
    def occupancy(self) -> float:
        """Between 0 and 1."""
        limits = ARCHITECTURES[self.architecture]
        warps = -(-self.threads // 32)
        registers = -(-self.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
        by_registers = REGISTERS // registers // WARP_UNIT * WARP_UNIT // warps
        shared = self.shared_bytes + SHARED_OF_SYSTEM
        by_shared = limits.shared_bytes // (-(-shared // SHARED_UNIT) * SHARED_UNIT)
        blocks = min(limits.blocks, limits.warps // warps, by_registers, by_shared)
        return blocks * warps / limits.warps

    def row(self) -> dict[str, str]:
        numbers = [self.threads, self.registers, self.shared_bytes, self.stack_bytes]
        values = [self.name, self.architecture, *map(str, numbers), f"{self.occupancy:.3f}"]
        return dict(zip(COLUMNS, values, strict=True))


def nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    found = shutil.which(Path(home) / "bin" / "nvcc") if home else shutil.which("nvcc")
    found = found or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None:
        raise SystemExit("cuda_budget: nvcc must be installed, found none (set CUDA_HOME)")
    return found


def compile_source(source: Path) -> list[Kernel]:
    """Kernels of one file, on every architecture."""
    names = [name.removeprefix("sm_") for name in ARCHITECTURES]
    targets = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc(), "-O3", "-std=c++17", "-Xptxas", "-v,-warn-spills", *targets, "--keep",
                   "--keep-dir", folder, "-c", str(source), "-o", f"{folder}/object.o"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        (first, *_) = sorted(Path(folder).glob("*.ptx"))
        threads = block_sizes(first.read_text())
    kernels = parse_ptxas(done.stderr)
    for kernel in kernels:
        kernel.threads = threads.get(kernel.name, 0)
    return kernels


def block_sizes(ptx: str) -> dict[str, int]:
    """Threads that each kernel is bound to, by its mangled name."""
    found = re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)(?:, (\d+), (\d+))?", ptx)
    return {name: int(x) * int(y or 1) * int(z or 1) for name, x, y, z in found}


def parse_ptxas(text: str) -> list[Kernel]:
    kernels: list[Kernel] = []
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)' for '(sm_\d+)'", line):
            kernels.append(Kernel(*found.groups()))
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", line):
            kernels[-1].stack_bytes = int(found[1])
            kernels[-1].spilled_bytes = int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            kernels[-1].registers = int(found[1])
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[-1].shared_bytes = int(shared[1]) if shared else 0
    return kernels


def arguments_begin(declaration: str) -> int:
    """Where the parenthesis is that no angle brackets enclose."""
    depth = 0
    for place, letter in enumerate(declaration):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return place
    return len(declaration)


def readable(names: Iterable[str]) -> dict[str, str]:
    """Mangled names to ``upsample_planes<float, 4>``."""
    mangled = sorted(set(names))
    filtered = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True)
    short = {}
    for name, full in zip(mangled, filtered.stdout.splitlines(), strict=True):
        plain = full[: arguments_begin(full)].removeprefix("void ").replace("fastseg::cuda::", "")
        short[name] = re.sub(r"\((?:\w|:)+\)(?=\d)", "", plain)  # casts of enumerators and integers
    return short


def measure() -> list[Kernel]:
    sources = sorted(ROOT.glob("csrc/*/cuda/*.cu"))
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        kernels = [kernel for found in pool.map(compile_source, sources) for kernel in found]
    names = readable(kernel.name for kernel in kernels)
    unique = {}
    for kernel in kernels:  # a template may be compiled in several files
        kernel.name = names[kernel.name]
        unique[kernel.name, kernel.architecture] = kernel
    return [unique[key] for key in sorted(unique)]


def read_budget(path: Path = BUDGET) -> dict[tuple[str, str], dict[str, str]]:
    with path.open(newline="") as file:
        return {(row["kernel"], row["architecture"]): row for row in csv.DictReader(file)}


def write_budget(kernels: list[Kernel]) -> None:
    with BUDGET.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kernel.row() for kernel in kernels)


def faults(kernels: list[Kernel]) -> list[str]:
    """What no budget allows."""
    found = []
    for kernel in kernels:
        where = f"{kernel.name} on {kernel.architecture}"
        if kernel.spilled_bytes:
            found.append(f"{where} spills {kernel.spilled_bytes} bytes of registers")
        if not kernel.threads:
            found.append(f"{where} does not state its block size (__launch_bounds__)")
    return found


def broken_budgets(
    kernels: list[Kernel], budget: dict[tuple[str, str], dict[str, str]]
) -> list[str]:
    found = []
    measured = {(kernel.name, kernel.architecture) for kernel in kernels}
    for kernel in kernels:
        where = f"{kernel.name} on {kernel.architecture}"
        allowed = budget.get((kernel.name, kernel.architecture))
        if allowed is None:
            found.append(f"{where} has no budget")
            continue
        row = kernel.row()
        for column in ("registers", "shared_bytes", "stack_bytes"):
            if int(row[column]) > int(allowed[column]):
                found.append(f"{where}: {column} {row[column]}, budget {allowed[column]}")
        if float(row["occupancy"]) < float(allowed["occupancy"]):
            found.append(f"{where}: occupancy {row['occupancy']}, budget {allowed['occupancy']}")
    gone = sorted(set(budget) - measured)
    found += [f"{name} on {architecture} has a budget and is gone" for name, architecture in gone]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write the budget anew")
    arguments = parser.parse_args()
    kernels = measure()
    wrong = faults(kernels)
    if arguments.update and not wrong:
        write_budget(kernels)
    wrong = wrong or broken_budgets(kernels, read_budget())
    for line in wrong:
        print(f"cuda_budget: {line}", file=sys.stderr)
    if wrong:
        raise SystemExit(1)
    lowest = min(kernels, key=lambda kernel: kernel.occupancy)
    print(
        f"cuda_budget: {len(kernels)} kernels for {', '.join(ARCHITECTURES)}: no spills, at most "
        f"{max(kernel.registers for kernel in kernels)} registers, occupancy at least "
        f"{lowest.occupancy:.2f} ({lowest.name} on {lowest.architecture})"
    )


if __name__ == "__main__":
    main()
