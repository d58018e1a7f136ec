"""Where and from what a run comes: devices, versions, the commit of this code, the date."""

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "matplotlib", "srn_jax")
PLACE = ("device", "processor", "commit", "versions")  # of what `provenance` tells
ROUNDS = ("device", "processor", "jax", "jaxlib", "flax", "optax")  # on which last digits depend


def provenance() -> dict[str, Any]:
    """What a run file tells of where the run began; what cannot be found is left out."""
    found = {
        "device": describe_devices(),
        "processor": processor(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
        "versions": {name: version_of(name) for name in PACKAGES}
        | {"python": sys.version.split()[0]},
    }
    return {name: value for name, value in found.items() if value}


def places_of(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where a run was trained, one place after another, as its run file tells."""
    first = {name: info[name] for name in ("date", *PLACE) if name in info}
    return [first, *info.get("went_on", ())]


def went_on(info: Mapping[str, Any], more: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The places after its first of a run that goes on at some more, without repeating one."""
    places = places_of(info)
    for place in more:
        if any(place.get(name) != places[-1].get(name) for name in PLACE):
            places.append(place)
    return places[1:]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What may round otherwise in one place than in another, as `jax 0.7.2, now 0.10.2`."""
    old, new = (
        {**place, **place.get("versions", {}), "device": kind_of(place.get("device", ""))}
        for place in (before, now)
    )
    both = [name for name in ROUNDS if old.get(name) and new.get(name)]
    return [f"{name} {old[name]}, now {new[name]}" for name in both if old[name] != new[name]]


def kind_of(device: str) -> str:
    """`cpu` of `2 x cpu`."""
    return device.partition(" x ")[2]


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


def commit() -> str:
    """The commit of the clone that this code is in, with `-dirty` if it was changed since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed as a package
        return ""
    return output("git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*")


def output(*command: str) -> str:
    """What a command prints, or nothing if it can't be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if not done.returncode else ""


def version_of(package: str) -> str:
    """The installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe_devices() -> str:
    """Kind and number of the devices, as in `2 x cpu` or `8 x TPU v5 lite`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
