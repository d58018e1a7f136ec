"""What the compilers of accelerators make of a sweep, without an accelerator."""

import re
from functools import cache

import pytest
from benchmark import estimate
from benchmark.estimate import TARGETS

from srn_jax.config import ExperimentConfig, SweepConfig

needs_libtpu = pytest.mark.needs_libtpu
needs_cuda = pytest.mark.needs_cuda
COLLECTIVE = r"all-(reduce|gather|to-all)|collective-permute|reduce-scatter"
ALL_LENGTHS = range(5, 40, 5)


@cache
def estimated(name, seeds, cell="srn", chips=(1, 1), kernel=False, lengths=ALL_LENGTHS):
    """An estimate; its devices must not talk to each other."""
    pytest.importorskip("libtpu" if name.startswith("tpu") else "jax_cuda13_plugin")
    config = SweepConfig(tuple(lengths), tuple(range(seeds)), ExperimentConfig(cell=cell))
    found = estimate.estimate(TARGETS[name], config, chips, kernel)
    assert not re.search(COLLECTIVE, found.text)
    return found


@needs_libtpu
@pytest.mark.parametrize(("seeds", "at_most"), [(8, 200_000), (64, 1_250_000), (1000, 19_600_000)])
def test_cycles_of_a_tpu_v5e_stay_within_their_budget(seeds, at_most):
    found = estimated("tpu-v5e", seeds)
    assert found.count <= at_most
    assert found.bytes < 14e9


@needs_libtpu
def test_four_chips_cost_each_what_one_costs_and_do_not_talk():
    alone = estimated("tpu-v5e", 2, lengths=(5, 35))
    assert estimated("tpu-v5e", 8, chips=(2, 2), lengths=(5, 35)).count <= 1.05 * alone.count


@needs_libtpu
def test_a_tpu_v6e_compiles_it():
    estimated("tpu-v6e", 2, chips=(2, 2))


@needs_libtpu
def test_on_a_tpu_every_product_is_asked_for_in_float32():
    """TPUs round the operands of a product to bfloat16 unless the highest precision is asked."""
    pytest.importorskip("libtpu")
    lowered, _ = estimate.lower_sweep(TARGETS["tpu-v5e"], SweepConfig((5, 35), (0, 1)))
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    assert len(products) > 5
    assert all(line.count("HIGHEST") == 2 for line in products), products


@needs_cuda
@pytest.mark.parametrize("seeds", [1, 1000])
def test_launches_of_an_h100_do_not_depend_on_the_number_of_seeds(seeds):
    found = estimated("gpu-h100", seeds)
    assert found.count <= 210
    assert found.bytes < 8e9


@needs_cuda
@pytest.mark.parametrize(("cell", "spilled"), [("srn", 100), ("lstm", 440), ("gru", 440)])
def test_a_block_is_one_launch_and_the_kernel_keeps_its_registers(cell, spilled):
    """`estimate` refuses a kernel with an instruction of tensor cores, which round to TF32."""
    found = estimated("gpu-h100", 64, cell, kernel=True)
    assert found.count <= 1  # a step: what is around the kernel of a block included
    assert 0 < found.registers <= 255
    assert found.spilled <= spilled


@needs_cuda
def test_two_h100s_cost_each_what_one_costs_and_do_not_talk():
    alone = estimated("gpu-h100", 2, kernel=True)
    assert estimated("gpu-h100", 4, chips=(1, 2), kernel=True).count <= 1.05 * alone.count
