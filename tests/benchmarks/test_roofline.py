"""Predictions on paper: what they are made of, and the targets that they are held to."""

import pytest

from benchmarks import roofline

H100 = roofline.CARDS["H100 SXM"]
PLANS = {plan.name: plan for plan in roofline.plans()}


def test_a_step_takes_the_longest_of_three():
    card = roofline.Card(bandwidth=1e12, rate=1e13, cache=4e6, architecture="sm_80")
    assert roofline.Step("k", (1e9,), 1e9).seconds(card) == pytest.approx(1e-3)
    assert roofline.Step("k", (1e6,), 1e11).seconds(card) == pytest.approx(1e-2)
    assert roofline.Step("k", (1e3,), 1e3, 2).seconds(card) == pytest.approx(2 * roofline.LAUNCH)
    # Twice the same arrays: from the cache the second time, where they fit.
    assert roofline.Step("k", (1e9,), 0, 2).seconds(card) == pytest.approx(2e-3)
    cached = roofline.Step("k", (1e6,), 0, 2).seconds(card)
    assert cached == pytest.approx(2 * roofline.LAUNCH)


def test_targets():
    times = [p.seconds(H100) for n, p in PLANS.items() if n.startswith("mean field 375x500x21 80")]
    assert len(times) == 2
    assert sum(times) < 1e-3
    launches = [p.launches for n, p in PLANS.items() if n.startswith("mean field 375x500x21 80")]
    assert sum(launches) <= 110
    for name, plan in PLANS.items():
        if name.startswith("upsample_argmax"):
            assert plan.torch_bytes >= 10 * plan.bytes


def test_every_kernel_has_a_budget():
    occupancy = roofline.occupancies()
    for plan in PLANS.values():
        for step in plan.steps:
            for card in roofline.CARDS.values():
                assert 0 < occupancy[step.kernel, card.architecture] <= 1
