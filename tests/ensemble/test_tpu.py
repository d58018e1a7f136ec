"""The programs of a sweep compile for TPUs, by libtpu's ahead-of-time compiler, without a TPU."""

import re

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from srn_jax.config import ExperimentConfig
from srn_jax.ensemble.packing import pack_for
from srn_jax.ensemble.sweep import AXIS, advance_packed, prepare_packed

pytestmark = pytest.mark.needs_libtpu


def lowered_for(topology: str, lengths=(5, 35), seeds=4):
    """The two programs of a small sweep, lowered for the devices of a TPU topology."""
    pytest.importorskip("libtpu")
    # All chips on one host: older libtpu takes 2x2 a host for granted, even of a single chip.
    host = [int(side) for side in topology.split(":")[1].split("x")] + [1]
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=topology, chips_per_host_bounds=host
    ).devices
    mesh = Mesh(np.array(devices), ("experiment",))
    packing = pack_for("tpu", np.repeat(lengths, seeds), len(devices))
    config = ExperimentConfig()

    def on_mesh(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, AXIS))

    slots = on_mesh(packing.experiment.shape, np.uint32)
    prepare = prepare_packed(mesh, config, max(lengths))
    state, data = jax.tree.map(
        lambda array: on_mesh(array.shape, array.dtype), jax.eval_shape(prepare, slots, slots, None)
    )
    program = on_mesh(packing.program.shape, np.int32)
    advance = advance_packed(mesh, config, packing.widths).lower(state, data, program, 0, 1)
    return prepare.lower(slots, slots, None), advance


@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:2x2", "v6e:2x2"])
def test_the_programs_compile_for(topology):
    for program in lowered_for(topology):
        compiled = program.compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 16e9  # a v5e core has 16 GB
    text = compiled.as_text()
    assert not re.search(r"all-(reduce|gather|to-all)|collective-permute", text)


def test_float32_products_are_asked_for_in_float32():
    """TPUs round the operands of a product to bfloat16 unless the highest precision is asked."""
    _, advance = lowered_for("v5e:1x1")
    products = [line for line in advance.as_text().splitlines() if "dot_general" in line]
    assert len(products) > 5
    assert all(line.count("HIGHEST") == 2 for line in products), products
