"""The emulator of the CUDA execution model: it runs what is right, and catches what is wrong."""

import os
import subprocess

import pytest
import simt_build

pytestmark = pytest.mark.slow  # of four builds of the emulator; `make simt` and CI run it

ORDERS = ["forward", "reverse", "random"]
COPIES = ["wait", "issue", "mixed"]
QUICK = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1 atexit_sleep_ms=0"}


def run(variant: str, case: str, *order: str) -> subprocess.CompletedProcess[str]:
    if reason := simt_build.missing(variant):
        pytest.skip(reason)
    command = [str(simt_build.build_program(variant)), case, *order]
    if variant == "aarch64":
        command.insert(0, "qemu-aarch64-static")
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=QUICK)


@pytest.mark.parametrize("copies", COPIES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("variant", simt_build.VARIANTS)
def test_runs_what_is_right(variant, order, copies):
    """Without a word from the sanitizers."""
    done = run(variant, "all", order, copies)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 14
    assert all(line.endswith(": right") for line in done.stdout.splitlines()), done.stdout


RACES = {  # the two accesses, by what the kernel does in their lines
    "missing_syncthreads": ["partial[t] += partial[t + half]", "partial[t] += partial[t + half]"],
    "missing_syncwarp": ["value = 5", "= value + own"],
    "race_between_blocks": ["*sum += 1", "*sum += 1"],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", RACES)
def test_thread_sanitizer_reports_races(case, order):
    done = run("thread", case, order)
    assert done.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    source = (simt_build.EMULATOR / "emulator_test.cpp").read_text().splitlines()
    report = done.stderr.split("==================")[1]
    tops = [line for line in report.splitlines() if line.strip().startswith("#0 ")]
    lines = [source[int(top.partition("emulator_test.cpp:")[2].split()[0]) - 1] for top in tops[:2]]
    for line in lines:
        assert any(access in line for access in RACES[case])
    if order == "forward":
        for access in RACES[case]:
            assert any(access in line for line in lines)


STAGES = {  # copies by cp.async: when they are seen, and what their arrays are read or written by
    "stage_filled_too_early": (COPIES, "= stages[step % 2]"),
    "copy_of_what_is_being_written": (["issue", "mixed"], "from[4 * t + i] = 1"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", STAGES)
def test_thread_sanitizer_reports_copies_that_come_too_early(case, order):
    """What follows the barrier is ordered for a copy at its wait, and not for one at its issue."""
    source = (simt_build.EMULATOR / "emulator_test.cpp").read_text().splitlines()
    seen, access = STAGES[case]
    for copies in seen:
        done = run("thread", case, order, copies)
        assert "WARNING: ThreadSanitizer: data race" in done.stderr, copies
        accesses = done.stderr.split("==================")[1].split("\n\n")[:2]
        (kernel,) = (text for text in accesses if "async_copy.h" not in text)
        line = int(kernel.partition("emulator_test.cpp:")[2].split()[0])
        assert access in source[line - 1]


@pytest.mark.parametrize("order", ORDERS)
def test_results_are_wrong_where_a_stage_is_filled_too_early(order):
    """What is read there is NaN, or the numbers of the next step but one."""
    for copies in COPIES:
        assert run("plain", "stage_filled_too_early", order, copies).stdout == "wrong\n"


@pytest.mark.parametrize("order", ORDERS)
def test_each_time_of_copying_shows_what_the_other_hides(order):
    shown = {
        (case, copies): run("plain", case, order, copies).stdout
        for case in ("missing_wait", "copy_of_what_is_being_written")
        for copies in ("wait", "issue")
    }
    assert shown == {
        ("missing_wait", "wait"): "wrong\n",
        ("missing_wait", "issue"): "right\n",
        ("copy_of_what_is_being_written", "wait"): "right\n",
        ("copy_of_what_is_being_written", "issue"): "wrong\n",
    }


@pytest.mark.parametrize(
    ("case", "report"),
    [
        ("shared_out_of_bounds", "AddressSanitizer: heap-buffer-overflow"),
        ("beyond_static_shared", "runtime error: index 32 out of bounds for type 'float [32]'"),
        ("global_out_of_bounds", "AddressSanitizer: heap-buffer-overflow"),
        ("misaligned_float4", "runtime error: member access within misaligned address"),
    ],
)
def test_address_sanitizer_reports(case, report):
    done = run("address", case)
    assert done.returncode != 0
    assert report in done.stderr
    assert "emulator_test.cpp:" in done.stderr


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "case", ["missing_wait", "uninitialised_shared", "shared_of_another_block", "wrong_fragment"]
)
def test_results_are_wrong(case, order):
    """What was not waited for, or not written by this block, is NaN in shared memory."""
    assert run("plain", case, order).stdout == "wrong\n"


def test_a_missing_barrier_shows_in_some_order():
    shown = {order: run("plain", "missing_syncthreads", order).stdout for order in ORDERS}
    assert "wrong\n" in shown.values()


HERE = str(simt_build.EMULATOR / "emulator_test.cpp")
MESSAGES = {
    "misaligned_pack": "vector access at {}: the address is not aligned to 16 bytes",
    "misaligned_store": "vector access at {}: the address is not aligned to 8 bytes",
    "misaligned_async_copy": "cp.async at {}: addresses are not aligned to the size",
    "misaligned_matrix": "ldmatrix at {}: the row is not aligned to 16 bytes",
    "absent_lane": "__shfl_sync at {}: lane 0 reads lane 20, which is not in the mask",
    "lane_outside_its_mask": "__ballot_sync at {}: lane 16 is not in its own mask",
    "lanes_at_different_shuffles": "__shfl_sync at {}: other lanes of the mask are at __shfl_sync",
    "divergent_shuffle": " at {}: other lanes of the mask are at ",
    "divergent_mma": "mma.sync at {}",
    "divergent_barrier": "threads of one block are at different barriers",
    "lanes_that_never_come": "16 of 32 threads wait, 16 have not ended: deadlock",
    "deadlock": "32 of 32 threads wait, 32 have not ended: deadlock",
    "large_block": "the block's size is none that CUDA takes",
    "large_shared": "more dynamic shared memory than every GPU has",
    "empty_grid": "the grid's size is none that CUDA takes",
    "tall_grid": "the grid's size is none that CUDA takes",
    "other_stream": "the stream is not the caller's",
}


@pytest.mark.parametrize("case", MESSAGES)
def test_errors_say_what_and_where(case):
    done = run("plain", case)
    assert done.returncode == 3
    before, place, after = MESSAGES[case].partition("{}")
    assert done.stdout.startswith("simt: ")
    assert before in done.stdout
    assert after in done.stdout
    in_header = ("misaligned_pack", "misaligned_store", "misaligned_matrix")
    if place and case not in in_header:
        assert f"{HERE}:" in done.stdout


@pytest.mark.parametrize("order", ["reverse", "random"])
@pytest.mark.parametrize("case", ["divergent_barrier", "deadlock", "lanes_at_different_shuffles"])
def test_errors_do_not_depend_on_the_order(case, order):
    done = run("plain", case, order)
    assert done.returncode == 3
    assert MESSAGES[case].partition("{}")[2] in done.stdout


def test_deadlock_names_the_places():
    done = run("plain", "deadlock")
    assert f"thread 0 waits for __shfl_sync at {HERE}:" in done.stdout
    assert f"thread 3 waits for __syncthreads at {HERE}:" in done.stdout
    assert "in block (0, 0, 0) of deadlock" in done.stdout
