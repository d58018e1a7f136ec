"""What the compilers of accelerators make of a sweep, without an accelerator."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import jax
import pytest
from benchmark import estimate
from benchmark.estimate import TARGETS, compile_sweep

from srn_jax.config import CELLS, ExperimentConfig, SweepConfig

# Compilers without a device cannot read what they have put into the cache; they compile again.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache entry")
needs_libtpu = pytest.mark.needs_libtpu
needs_cuda = pytest.mark.needs_cuda
COLLECTIVE = r"all-(reduce|gather|to-all)|collective-permute|reduce-scatter"
ALL_LENGTHS = range(5, 40, 5)


def sweep(seeds=8, lengths=ALL_LENGTHS, **settings):
    return SweepConfig(tuple(lengths), tuple(range(seeds)), ExperimentConfig(**settings))


def need(name):
    pytest.importorskip("libtpu" if name.startswith("tpu") else "jax_cuda13_plugin")


def compiled_alone(*arguments):
    """`compile_sweep`, whose devices must not talk to each other."""
    compiled, shards = compile_sweep(*arguments)
    assert not re.search(COLLECTIVE, compiled.as_text())
    return compiled, shards


@cache
def estimated(name, seeds, cell="srn", chips=(1, 1), kernel=False, lengths=ALL_LENGTHS):
    need(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "compile_sweep", compiled_alone)
        return estimate.estimate(TARGETS[name], sweep(seeds, lengths, cell=cell), chips, kernel)


@needs_libtpu
@pytest.mark.parametrize(("seeds", "at_most"), [(8, 270_000), (64, 1_600_000)])
def test_cycles_of_a_tpu_v5e_stay_within_their_budget(seeds, at_most):
    assert estimated("tpu-v5e", seeds).count <= at_most


@needs_libtpu
def test_on_a_tpu_an_experiment_costs_the_same_however_many_there_are():
    every = [estimated("tpu-v5e", seeds) for seeds in (8, 64, 1000)]
    each = [one.count / one.experiments for one in every]
    assert max(each) <= 1.3 * min(each)
    assert every[-1].temporary_bytes + every[-1].argument_bytes < 14e9


@needs_libtpu
def test_four_chips_cost_each_what_one_costs_and_do_not_talk():
    alone, four = (
        estimated("tpu-v5e", seeds, chips=chips, lengths=(5, 35))
        for seeds, chips in ((2, (1, 1)), (8, (2, 2)))
    )
    assert four.count <= 1.05 * alone.count


@needs_libtpu
def test_a_tpu_v6e_compiles_it():
    need("tpu-v6e")
    compiled_alone(TARGETS["tpu-v6e"], sweep(2), (2, 2))


@needs_cuda
@pytest.mark.parametrize("seeds", [1, 64, 1000])
def test_launches_of_an_h100_do_not_depend_on_the_number_of_seeds(seeds):
    found = estimated("gpu-h100", seeds)
    assert found.count <= 210
    assert found.temporary_bytes + found.argument_bytes < 8e9


@pytest.fixture(scope="module")
def with_kernels(tmp_path_factory):
    """A function of a cell: what its kernels cost an H100, and the folder of what was assembled."""
    compile_as_usual = jax.stages.Lowered.compile

    @cache
    def of(cell):
        folder = tmp_path_factory.mktemp(cell)

        def compile_and_dump(lowered):  # as for users: tests leave optimisations out
            as_users = {"xla_backend_optimization_level": 3, "xla_dump_to": str(folder)}
            return compile_as_usual(lowered, as_users)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.stages.Lowered, "compile", compile_and_dump)
            return estimated("gpu-h100", 64, cell, kernel=True), folder

    return of


@needs_cuda
@pytest.mark.parametrize("cell", CELLS)
def test_launches_with_kernels(with_kernels, cell):
    assert with_kernels(cell)[0].count <= 1


@needs_cuda
def test_a_thousand_seeds_fit_beside_the_kernels_and_move_little():
    found = estimated("gpu-h100", 1000, kernel=True)
    assert found.temporary_bytes + found.argument_bytes < 8e9
    assert found.bytes_moved <= 4 * found.bytes_floor


@needs_cuda
def test_two_h100s_cost_each_what_one_costs_and_do_not_talk():
    assert estimated("gpu-h100", 64, chips=(1, 2)).count <= 210
    compiled_alone(TARGETS["gpu-h100"], sweep(2), (1, 2), True)


@needs_cuda
@pytest.mark.parametrize("cell", CELLS)
def test_the_kernels_keep_their_registers_and_float32(with_kernels, cell):
    """The assembler finds no spills in the loops, few in blocks, and no tensor core's instruction.

    An H200 trains faster by blocks of few threads, which spill a little, than by ones that do not.
    """
    _, folder = with_kernels(cell)
    sources = {path: path.read_text() for path in folder.glob("*.ptx")}
    found = {path: re.findall(r"entry (\w*_kernel)\(", text) for path, text in sources.items()}
    assert [*found.values()].count(["block_kernel"]) == 1
    for path, names in found.items():
        if names:
            command = [ptxas(), "-arch=sm_90a", "-v", str(path), "-o", os.devnull]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))
            assert spilled <= (700 if names == ["block_kernel"] else 0), said
    for text in sources.values():
        assert not re.search(r"\b(mma|wgmma)\b|tf32|bf16", text)


def ptxas():
    import nvidia

    return next(str(p) for root in nvidia.__path__ for p in Path(root).glob("*/bin/ptxas"))


@needs_libtpu
def test_on_a_tpu_every_product_is_asked_for_in_float32(monkeypatch):
    """TPUs round the operands of a product to bfloat16 unless the highest precision is asked."""
    need("tpu-v5e")
    seen = []
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda lowered: seen.append(lowered.as_text())
    )
    compile_sweep(TARGETS["tpu-v5e"], sweep(2, lengths=(5, 35)))
    products = [line for line in seen[0].splitlines() if "dot_general" in line]
    assert len(products) > 5
    assert all(line.count("HIGHEST") == 2 for line in products), products
