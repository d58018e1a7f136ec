"""Where a run is trained: devices, versions, commit; and what several processes tell each other.

Last digits depend on the former, so a run that goes on elsewhere says so. Processes talk in JAX's
own way, and one that dies is told of in JAX's words.
"""

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from srn_jax.errors import UserError
from srn_jax.files import digest, digest_of
from srn_jax.runs.devices import outside

ROUNDS = ("jax", "jaxlib", "flax", "optax")  # on which last digits depend
PACKAGES = (*ROUNDS, "numpy", "orbax-checkpoint", "matplotlib", "srn_jax")
ROOT = Path(__file__).resolve().parents[1]


def here() -> dict[str, Any]:
    """This place, as a run file tells it; what cannot be found is left out."""
    versions, commit = {"python": sys.version.split()[0]}, ""
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    if (ROOT.parent / ".git").exists():  # else it is installed as a package
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
        with suppress(OSError, subprocess.SubprocessError):
            commit = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    found = {
        "device": devices(),
        "processor": processor(),
        "commit": commit.strip(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
        "versions": versions,
        "outside": outside(),
    }
    return {name: value for name, value in found.items() if value}


def processor() -> str:
    """The name of the processor and its number of cores, as in `AMD EPYC 9B14, 2 cores`."""
    cpuinfo = ""
    with suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    return f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores"


def devices() -> str:
    """Kind and number of the devices, as in `2 x cpu` or `8 x TPU v5 lite`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def note(info: dict[str, Any]) -> list[str]:
    """Note in a run file that it is trained here from now on; returns what may round otherwise."""
    now, went_on = here(), info.get("went_on", [])
    if "versions" not in info:
        info |= now
    if told := changes(went_on[-1] if went_on else info, now):
        info["went_on"] = [*went_on, now]
    return told


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What may round otherwise in one place than in another, as `jax 0.7.2, now 0.10.2`."""
    told: list[dict[str, str]] = []
    for place in (before, now):
        rounding = {n: v for n, v in place.get("versions", {}).items() if n in ROUNDS}
        rounding["device"] = place.get("device", "").partition(" x ")[2]
        told.append(rounding | {"processor": place.get("processor", "")} | place.get("outside", {}))
    values = {name: [one.get(name) or "unset" for one in told] for name in told[0] | told[1]}
    return [f"{name} {old}, now {new}" for name, (old, new) in values.items() if old != new]


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
    if "error" in told:
        raise error or UserError(f"process 0: {told['error']}")
    return told["value"]


def check_agreement(table: Mapping[str, Any], chunk: int | None) -> None:
    """Raise `UserError`, in every process, where one would train something else than process 0."""
    if jax.process_count() == 1:
        return
    own = {name: one["sha256"] for name, one in table["own"].items()}
    data = table["data"] and table["data"]["digests"]  # folders may be mounted anywhere
    asked = {**table, "own": own, "data": data, "chunk": chunk}
    code = digest(b"".join(path.read_bytes() for path in sorted(ROOT.rglob("*.py"))))
    for what, value in (("settings", asked), ("code or libraries", [code, here()["versions"]])):
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
