"""The check of registers, shared memory and occupancy, on what ptxas prints."""

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import cuda_budget
from cuda_budget import Kernel

PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4blurPf' for 'sm_80'
ptxas info    : Function properties for _Z4blurPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 520 bytes cmem[0]
ptxas info    : Compiling entry function '_Z4blurPf' for 'sm_120'
ptxas info    : Function properties for _Z4blurPf
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 416 bytes cmem[0]
"""
PTX = """
.visible .entry _Z4blurPf(
\t.param .u64 _Z4blurPf_param_0
)
.maxntid 16, 8, 2
{
.visible .entry _Z5slicePf(
\t.param .u64 _Z5slicePf_param_0
)
{
"""


def test_reads_ptxas():
    first, second = cuda_budget.parse_ptxas(PTXAS)
    assert (first.name, first.architecture) == ("_Z4blurPf", "sm_80")
    assert (first.registers, first.shared_bytes, first.spilled_bytes) == (40, 2048, 0)
    assert (second.architecture, second.registers, second.shared_bytes) == ("sm_120", 255, 0)
    assert (second.spilled_bytes, second.stack_bytes) == (16, 8)
    assert cuda_budget.block_sizes(PTX) == {"_Z4blurPf": 256}


@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared", "occupancy"),
    [  # as CUDA's occupancy calculator has it
        ("sm_80", 256, 32, 0, 1.0),
        ("sm_80", 256, 40, 0, 0.75),
        ("sm_80", 256, 64, 0, 0.5),
        ("sm_86", 256, 40, 0, 1.0),
        ("sm_90", 1024, 64, 0, 0.5),
        ("sm_80", 32, 32, 0, 0.5),  # 32 blocks
        ("sm_86", 128, 16, 48 * 1024, 8 / 48),  # 2 blocks of 49 KB
        ("sm_80", 96, 255, 0, 6 / 64),
    ],
)
def test_occupancy(architecture, threads, registers, shared, occupancy):
    kernel = Kernel("k", architecture, threads, registers, shared)
    assert kernel.occupancy == pytest.approx(occupancy)


def test_what_breaks_a_budget():
    kernel = Kernel("k", "sm_80", 256, 40, 1024)
    budget = {("k", "sm_80"): kernel.row()}
    assert cuda_budget.broken_budgets([kernel], budget) == []
    kernel.registers, kernel.shared_bytes, kernel.stack_bytes = 72, 2048, 8
    assert cuda_budget.broken_budgets([kernel], budget) == [
        "k on sm_80: registers 72, budget 40",
        "k on sm_80: shared_bytes 2048, budget 1024",
        "k on sm_80: stack_bytes 8, budget 0",
        "k on sm_80: occupancy 0.375, budget 0.750",
    ]
    other = Kernel("other", "sm_80", 256, 8, 0)
    assert cuda_budget.broken_budgets([other], budget) == [
        "other on sm_80 has no budget",
        "k on sm_80 has a budget and is gone",
    ]


def test_what_no_budget_allows():
    kernel = Kernel("k", "sm_80", 0, 40, 0, spilled_bytes=16, stack_bytes=8)
    assert cuda_budget.faults([kernel]) == [
        "k on sm_80 spills 16 bytes of registers",
        "k on sm_80 does not state its block size (__launch_bounds__)",
    ]


def test_committed_budget():
    """Every kernel of the sources is in it, for every architecture."""
    budget = cuda_budget.read_budget()
    for row in budget.values():
        assert int(row["registers"]) <= 255
        assert 0 < float(row["occupancy"]) <= 1
    names = {name.partition("<")[0] for name, _ in budget}
    for source in cuda_budget.ROOT.glob("csrc/*/cuda/*.cuh"):
        declared = r"__global__ void\s+__launch_bounds__\([^)]*\)\s+(\w+)\("
        for kernel in re.findall(declared, source.read_text()):
            assert kernel in names, kernel
    assert {architecture for _, architecture in budget} == set(cuda_budget.ARCHITECTURES)
