"""How programs are compiled where that is other than JAX does by itself, and found again on disk.

JAX keeps what is compiled, too, but finds it by the traced program, and to trace ours takes three
times as long as to load them. So a command looks them up by what they are traced from: the code of
this package, versions and settings of JAX, the processor, and what the programs are told. A class
out of a user's file can depend on anything, and a notebook can change a class: those are traced.

Only what was compiled in this process can be kept: what XLA has loaded it cannot write again, and
says so only when that is run. JAX tells whatever listens of each program that it has compiled.
"""

import hashlib
import os
import pickle
import platform
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from srn_jax.own_files import path_of
from srn_jax.training.experiment import Program

PACKAGE = Path(__file__).parents[1]
ROOMS = (".", "tasks", "cells", "training", "ensemble")  # whose code is traced
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
Compiled = jax.stages.Compiled
compiled_here: list[str] = []  # an event for each program


def listen(event: str, **_: Any) -> None:
    """Keep count of what is compiled, rather than loaded."""
    if event == "/jax/compilation_cache/cache_misses":
        compiled_here.append(event)


jax.monitoring.register_event_listener(listen)


def compiler_options(mesh: jax.sharding.Mesh) -> dict[str, bool]:
    """Options for a program that computes for less time than it takes to compile.

    On a CPU, XLA's older way of writing kernels compiles in 0.7 of the time. Its kernels take a
    sixth longer, and what they give differs in its last digits if at all. Newer versions of XLA do
    not have it.
    """
    older = jax.__version_info__[:2] <= (0, 10)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_cpu_use_fusion_emitters": False} if on_cpu and older else {}


def kept_programs(
    folder: Path | None, program: Program, about: Any, build: Callable[[], Sequence[Compiled]]
) -> Sequence[Compiled]:
    """Compiled programs as `build` gives them, or gave them to an earlier process.

    Args:
        folder: where they are kept; None to build them anyway.
        program: what they are traced from.
        about: all else on which they depend, which its `repr` must tell.
        build: compiles them.
    """
    alone = jax.process_count() == 1 and jax.default_backend() == "cpu"
    if folder is None or not alone or has_users_code(program):
        return build()
    from jax.experimental.serialize_executable import deserialize_and_load, serialize

    path = folder / name_of(program, about)
    with suppress(Exception):  # not there, torn, or not for this machine after all
        stored = pickle.loads(zlib.decompress(path.read_bytes()))
        return [deserialize_and_load(*one) for one in stored]
    before = len(compiled_here)
    built = build()
    if len(compiled_here) < before + len(built):
        return built
    with suppress(Exception):  # no room, or a program that cannot be written: it is traced again
        content = zlib.compress(pickle.dumps([serialize(one) for one in built]), 1)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(path)
    return built


def has_users_code(program: Program) -> bool:
    """Whether a program has a cell, a task or a probe out of a user's file."""
    names = program.config.cell, program.config.task, *program.probes
    return any(path_of(name) is not None for name in names)


def name_of(program: Program, about: Any) -> str:
    """A name for programs that is another one wherever they might be others."""
    settings = {field.name: getattr(program, field.name) for field in fields(program)}
    task = program.task
    settings["task"] = type(task), sorted(vars(task).items())
    origin = [
        code_and_versions(),
        sys.version,
        sorted(jax.config.values.items()),
        os.environ.get("XLA_FLAGS"),
        processor(),
        jax.devices(),
        settings,
        about,
    ]
    return hashlib.sha256(repr(origin).encode()).hexdigest()


@cache
def code_and_versions() -> list[str]:
    """The digest of the code from which programs are traced, and the versions of its libraries."""
    files = [file for room in ROOMS for file in sorted((PACKAGE / room).glob("*.py"))]
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return [code, *map(version, LIBRARIES)]


def processor() -> list[str]:
    """What the machine says of its processor's kind and instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return [platform.machine(), platform.processor(), *sorted(told)]
