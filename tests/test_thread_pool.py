"""Threads and processes around the NumPy door and the operators: the bits never change."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_scene import HEIGHT, LABELS, WIDTH, infer, scene

import fastseg._C  # noqa: F401  loads the operators
from fastseg import _numpy

ops = torch.ops.fastseg
SCRIPTS = Path(__file__).parent / "scripts"


def run_python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_equal_bits_for_every_number_of_threads(threads, num_threads, instruction_set):
    num_threads(1)
    expected = infer()
    num_threads(threads)
    assert _numpy.get_num_threads() == threads
    np.testing.assert_array_equal(infer(), expected)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_operators_return_equal_bits_for_every_number_of_threads(threads, num_threads):
    features = 30 * torch.rand(2, 3, 5000)
    values = torch.rand(2, 5000, 4)

    def every_operator() -> tuple[torch.Tensor, ...]:
        lattice = ops.permutohedral_lattice(features)
        vertices, barycentric, _, neighbours, segments, contributors = lattice
        rows = ops.permutohedral_splat(values, vertices, barycentric, segments, contributors)
        blurred = ops.permutohedral_blur(rows, neighbours, False)
        sliced = ops.permutohedral_slice(blurred, vertices, barycentric)
        products = ops.permutohedral_vertex_products(blurred, values, vertices)
        unary = values.transpose(1, 2)
        probs = ops.mean_field(unary, [features], [torch.tensor(2.0)], 3, ["after"], True)
        return *lattice, rows, blurred, sliced, products, probs

    num_threads(1)
    expected = every_operator()
    num_threads(threads)
    for _ in range(3):
        assert all(map(torch.equal, every_operator(), expected))


@pytest.mark.parametrize(
    ("threads", "error", "message"),
    [
        (0, ValueError, "set_num_threads: threads must be between 1 and 1024, got 0"),
        (-2, ValueError, "set_num_threads: threads must be between 1 and 1024, got -2"),
        (2**70, ValueError, f"set_num_threads: threads must be less than 2^63, got {2**70}"),
        (1.5, TypeError, "set_num_threads: threads must be an integer, got 1.5"),
        ("2", TypeError, "set_num_threads: threads must be an integer, got '2'"),
    ],
)
def test_rejects_number_of_threads(threads, error, message):
    before = _numpy.get_num_threads()
    with pytest.raises(error) as raised:
        _numpy.set_num_threads(threads)
    assert str(raised.value) == message
    assert _numpy.get_num_threads() == before


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FASTSEG_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, "3"),
        ({"FASTSEG_NUM_THREADS": "", "OMP_NUM_THREADS": "5,2"}, "5"),
        ({"FASTSEG_NUM_THREADS": "", "OMP_NUM_THREADS": ""}, str(len(os.sched_getaffinity(0)))),
        (
            {"FASTSEG_NUM_THREADS": "many"},
            "fastseg: FASTSEG_NUM_THREADS must be between 1 and 1024, got 'many'",
        ),
    ],
    ids=["own", "openmp", "processors", "unusable"],
)
def test_default_number_of_threads(environment, expected):
    code = """
from fastseg import _numpy
try:
    print(_numpy.get_num_threads())
except ValueError as error:
    print(error)
"""
    assert run_python("-c", code, **environment) == expected


def test_forked_child_computes_the_same():
    assert run_python(str(SCRIPTS / "fork_child.py")) == "same"


def test_two_python_threads_with_a_field_each(num_threads):
    num_threads(2)
    expected = [infer(seed) for seed in range(4)]
    results: list[list[np.ndarray]] = [[], [], [], []]

    def work(seed: int) -> None:
        for _ in range(5):
            results[seed].append(infer(seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        assert len(results[seed]) == 5
        for result in results[seed]:
            np.testing.assert_array_equal(result, expected[seed])


def test_two_python_threads_with_one_field(num_threads):
    num_threads(2)
    field, unary, _ = scene()
    unaries = [unary, -unary]
    expected = [field.run(u, 3) for u in unaries]
    same: list[bool] = []

    def work(index: int) -> None:
        for _ in range(10):
            same.append(bool((field.run(unaries[index], 3) == expected[index]).all()))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 20


def test_two_python_threads_with_operators(num_threads):
    num_threads(2)
    _, unary, features = scene()
    tensors = [torch.from_numpy(f).view(1, -1, HEIGHT, WIDTH) for f in features]
    unary = torch.from_numpy(unary).view(1, LABELS, HEIGHT, WIDTH)
    weights = [torch.tensor(2.0)] * 2

    def infer_torch() -> torch.Tensor:
        return ops.mean_field(unary, tensors, weights, 3, ["symmetric"] * 2, True)

    expected = infer_torch()
    same: list[bool] = []
    threads = [
        threading.Thread(target=lambda: same.append(torch.equal(infer_torch(), expected)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 6


def test_gil_is_released(num_threads):
    num_threads(1)
    size = 300
    rng = np.random.default_rng(0)
    field = _numpy.MeanField((size, size), 21)
    field.add_kernel(_numpy.image_features((size, size), (3, 3)), 3.0)
    unary = rng.standard_normal((21, size * size)).astype(np.float32)
    done = threading.Event()

    def work() -> None:
        field.run(unary, 20)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    awake = 0
    while not done.is_set():
        time.sleep(0.001)
        awake += 1
    thread.join()
    # Were the GIL held, this thread would have slept through the whole inference.
    assert awake > 5


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_loader_worker(method):
    assert run_python(str(SCRIPTS / "data_loader.py"), method) == "same"
