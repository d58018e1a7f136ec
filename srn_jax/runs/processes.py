"""Several processes, one run: what they agree on, and what process 0, which has the folder, tells.

All of it is JAX's own way of talking; a process that dies is told of in JAX's words.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from srn_jax.config import SweepConfig
from srn_jax.errors import UserError
from srn_jax.files import digest_of
from srn_jax.runs import place
from srn_jax.runs.settings import table_of


def agree(first: int, *others: int) -> tuple[int, ...]:
    """Make processes decide alike: the largest of `first`, and of the others those of process 0."""
    if jax.process_count() == 1:
        return first, *others
    everyones = multihost_utils.process_allgather(np.array([first, *others]))
    return int(everyones[:, 0].max()), *(int(value) for value in everyones[0, 1:])


def on_first(function: Callable[[], Any]) -> Any:
    """What a function gives, as JSON, that process 0 alone calls; its failure is that of all."""
    if jax.process_count() == 1:
        return function()
    told, error = None, None
    if jax.process_index() == 0:
        try:
            told = {"value": function()}
        except (UserError, OSError) as failed:
            told, error = {"error": str(failed)}, failed
    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, size))
    told = json.loads(bytes(np.asarray(text, np.uint8)))
    if error is not None:
        raise error
    if "error" in told:
        raise UserError(f"process 0: {told['error']}")
    return told["value"]


def check_agreement(configs: Sequence[SweepConfig], chunk: int | None) -> None:
    """Raise `UserError`, in every process, where one would train something else than process 0."""
    if jax.process_count() == 1:
        return
    table = table_of(configs)  # folders may be mounted anywhere
    own = {name: one["sha256"] for name, one in table["own"].items()}
    data = table["data"] and table["data"]["digests"]
    told = {
        "settings, data or files": [{**table, "own": own, "data": data}, chunk],
        "code or libraries": [place.code_digest(), place.here()["versions"]],
    }
    for what, value in told.items():
        every = multihost_utils.process_allgather(np.uint32(int(digest_of(value)[:8], 16)))
        for other in np.flatnonzero(every != every[0])[:1]:
            raise UserError(f"process {other} has other {what} than process 0: start all alike")


def from_first(tree: Any, like: Any) -> Any:
    """A pytree of NumPy arrays that process 0 has, in all of them; `like` has its shapes."""
    if jax.process_count() == 1:
        return tree
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    whole = multihost_utils.broadcast_one_to_all(empty if tree is None else tree)
    return jax.tree.map(np.asarray, whole)
