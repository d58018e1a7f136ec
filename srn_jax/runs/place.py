"""Where and from what a run comes: devices, versions, settings from outside, the commit, the date.

Last digits depend on some of it. So a run tells where each of its parts was trained, and what goes
on, or is compared, across such a difference says so.
"""

import datetime
import functools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from srn_jax.files import digest
from srn_jax.runs.devices import outside

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "matplotlib", "srn_jax")
PLACE = ("device", "processor", "commit", "date", "versions", "outside")  # of what `here` tells
ROUNDS = ("device", "processor", "jax", "jaxlib", "flax", "optax")  # on which last digits depend
ROOT = Path(__file__).resolve().parents[1]


def here() -> dict[str, Any]:
    """This place, as a run file tells it; what cannot be found is left out."""
    versions = {name: version_of(name) for name in PACKAGES}
    found = {
        "device": describe_devices(),
        "processor": processor(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
        "versions": versions | {"python": sys.version.split()[0]},
        "outside": outside(),
    }
    return {name: value for name, value in found.items() if value}


def places_of(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where a run was trained, one place after another, as its run file tells."""
    first = {name: info[name] for name in PLACE if name in info}
    return [first, *info.get("went_on", ())] if first else []


def note(info: dict[str, Any], number: int, place: dict[str, Any]) -> list[str]:
    """Note in a run file that a part is trained in a place from now on.

    Returns what may round otherwise there than where it was trained before, or the run began.
    """
    places, part = places_of(info), info["parts"][number]
    same = [all(one.get(n) == place.get(n) for n in PLACE if n != "date") for one in places]
    if True not in same:
        places.append(place)
        same.append(True)
    before, now = (part["places"] or [0])[-1], same.index(True)
    if now not in part["places"][-1:]:
        part["places"].append(now)
    info |= places[0] | ({"went_on": places[1:]} if places[1:] else {})
    return changes(places[before], place)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What may round otherwise in one place than in another, as `jax 0.7.2, now 0.10.2`."""
    old, new = (
        {**one, **one.get("versions", {}), **one.get("outside", {})} for one in (before, now)
    )
    outside = sorted(before.get("outside", {}).keys() | now.get("outside", {}).keys())
    told = []
    for name in (*ROUNDS, *outside):
        values = [one.get(name, "") for one in (old, new)]
        if name == "device":
            values = [value.partition(" x ")[2] for value in values]
        # Not every JAX knows every setting, and not every place its processor.
        known = all(values) or (name in outside and not name.startswith("jax_"))
        if known and values[0] != values[1]:
            told.append(f"{name} {values[0] or 'unset'}, now {values[1] or 'unset'}")
    return told


def describe_devices() -> str:
    """Kind and number of the devices, as in `2 x cpu` or `8 x TPU v5 lite`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


@functools.cache
def processor() -> str:
    """The name of the processor and its number of cores, as in `AMD EPYC 9B14, 2 cores`."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        name = next((line.partition(": ")[2] for line in lines if "model name" in line), name)
    elif platform.system() == "Darwin":
        name = output("sysctl", "-n", "machdep.cpu.brand_string") or name
    return f"{name}, {os.cpu_count()} cores"


@functools.cache
def commit() -> str:
    """The commit of the clone that this code is in, with `-dirty` if it was changed since."""
    if not (ROOT.parent / ".git").exists():  # installed as a package
        return ""
    return output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*")


def code_digest() -> str:
    """A digest of this package's code, by which processes find that they run the same."""
    files = sorted(ROOT.rglob("*.py"))
    return digest(b"".join(path.read_bytes() for path in files))


def output(*command: str) -> str:
    """What a command prints, or nothing if it can't be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip() if not done.returncode else ""


def version_of(package: str) -> str:
    """The installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
