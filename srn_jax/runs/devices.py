"""Starting JAX on a platform, and which of its many settings a run may have.

`configure` sets environment variables and imports JAX; call it before anything else does. On a
CPU every core becomes a device, because experiments never talk to each other and XLA's own threads
only add synchronisation to programs as small as these.

The rule for the settings of JAX and XLA, all of which were looked through (jax 0.10.2):

1. What gives every seed other numbers, hides what is not finite, or lets nothing train is refused.
2. What only checks or forbids, and would stop a program that is right, is set to JAX's default.
3. What may change last digits is the user's to choose: `outside` tells it, a run records it, and
   is not continued with another. So are the flags of XLA that the user has set.
4. The rest (caches, logs, timeouts, tracebacks) changes no number and is left alone.
"""

import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from srn_jax.errors import UserError, warn

PLATFORMS = ("auto", "cpu", "gpu", "tpu")
# JAX takes "gpu" to mean CUDA and ROCm, both, and fails for want of the other.
BACKENDS = {"gpu": "cuda"}
EXTRAS = {"gpu": "cuda13", "tpu": "tpu"}
PLUGINS = {"gpu": ("jax_cuda13_plugin", "jax_cuda12_plugin"), "tpu": ("libtpu",)}

REFUSED: dict[str, Any] = {  # any other value than these
    **dict.fromkeys(("jax_enable_x64", "jax_disable_jit", "jax_no_execution"), False),
    **dict.fromkeys(("jax_no_tracing", "jax_debug_nans", "jax_debug_infs"), False),
    **{"jax_random_seed_offset": 0, "jax_default_prng_impl": "threefry2x32"},
    "jax_high_dynamic_range_gumbel": False,
}
SET: dict[str, Any] = {
    **{"jax_threefry_partitionable": True, "jax_numpy_dtype_promotion": "standard"},
    **dict.fromkeys(("jax_check_tracer_leaks", "jax_debug_key_reuse", "jax_thread_guard"), False),
    "jax_transfer_guard": "allow",
}
RECORDED = (
    *("jax_default_matmul_precision", "jax_disable_most_optimizations", "jax_optimization_level"),
    *("jax_exec_time_optimization_effort", "jax_memory_fitting_effort", "jax_memory_fitting_level"),
    *("jax_compiler_enable_remat_pass", "jax_softmax_custom_jvp", "jax_allow_f16_reductions"),
    *("jax_use_direct_linearize", "jax_threefry_gpu_kernel_lowering", "jax_xla_profile_version"),
)
VARIABLES = ("NVIDIA_TF32_OVERRIDE", "LIBTPU_INIT_ARGS")
CHANGES_NOTHING = "--xla_force_host_platform_device_count"  # no number of a result
UNSEEN_NAN = re.compile(
    r"--xla_cpu_(enable_fast_math(?!=(false|0))|fast_math_honor_nans=(false|0))"
)

# XLA turns a loop into a single kernel if one pass touches fewer bytes than this. Those of the
# recurrence do with 32 units, at any length (an LSTM's 85 to 90 kB). Those of an SRN with 128 units
# must not, since they are a third slower as a kernel, nor the loops around them, whose large
# products are faster as calls of a library. Loops over a row, unrolled, are not seen to be work for
# vector instructions, so that is left out.
EMITTERS = "xla_cpu_small_while_loop_byte_threshold=90000,xla_cpu_disable_loop_unrolling"
NEWEST_TRIED = (0, 12)  # the newest jaxlib that was seen to know the flags


@dataclass(frozen=True)
class Distributed:
    """Where this process stands among several; None is left for JAX to detect.

    JAX finds all three by itself on Slurm, Open MPI, Kubernetes and Cloud TPU.
    """

    coordinator: str | None = None  # host:port of process 0
    processes: int | None = None
    process: int | None = None


def configure(
    platform: str = "auto",
    cpu_devices: int | None = None,
    distributed: Distributed | None = None,
) -> None:
    """Start JAX on one of `PLATFORMS`, a CPU as so many devices (None: one for each core).

    Raises:
        UserError: if the platform is not there, or JAX was told to compute in another way than the
            results of this program are; nothing falls back silently.
        RuntimeError: if JAX has been started before.
    """
    users = os.environ.get("XLA_FLAGS", "")
    if found := UNSEEN_NAN.search(users):
        raise UserError(
            f"XLA_FLAGS has {found[0]}, under which a network that diverges is not seen: leave "
            "it out"
        )
    os.environ["XLA_FLAGS"] = with_our_flags(users, jaxlib_version())
    import jax

    check_settings()
    # A full disk or a read-only home must not be told by JAX as well, in lines of its own.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    number = cpu_devices or int(os.environ.get("JAX_NUM_CPU_DEVICES") or available_cores())
    jax.config.update("jax_num_cpu_devices", number)  # first: it says if JAX has been started
    before = getattr(jax.config, "jax_platforms", None)
    if platform != "auto":
        jax.config.update("jax_platforms", BACKENDS.get(platform, platform))
    use_compilation_cache()
    with jax_said() as said:
        try:
            if distributed is not None:
                join(distributed)
            jax.devices()
        except (RuntimeError, AssertionError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(explain(platform, distributed, [*said, str(error)])) from None
    check_platform(platform, before)
    if said and platform == "auto" and jax.default_backend() == "cpu":
        warn(f"trained on the CPU, since {said[-1]}")
    counts, own = Counter(d.process_index for d in jax.devices()), jax.process_index()
    if counts[own] != counts[0]:
        raise UserError(
            f"process {own} has another number of devices than process 0, {counts[own]} and "
            f"{counts[0]}: all need as many (`cpu_devices`)"
        )


def start(platform: str = "auto", cpu_devices: int | None = None) -> None:
    """Start JAX as `configure` does, or leave it as the user has started it."""
    with STARTING:
        try:
            configure(platform, cpu_devices)
        except RuntimeError:  # the devices are there, as the user has set them up
            check_settings()
            check_platform(platform)
            tell_of_few_devices()


STARTING = threading.Lock()  # of several threads one starts JAX


def check_settings() -> None:
    """Refuse or set what rules 1 and 2 are about; raises `UserError`."""
    import jax

    for name, wanted in REFUSED.items():
        if (value := getattr(jax.config, name, wanted)) != wanted:
            raise UserError(
                f"{name} is {value}, with which results would be others or none (in the "
                f"environment it is {name.upper()}): leave it out"
            )
    for name, wanted in SET.items():
        with suppress(AttributeError):  # a JAX that does not know it any more, or not yet
            if getattr(jax.config, name) not in (wanted, None):
                jax.config.update(name, wanted)


def check_platform(platform: str, before: str | None = None) -> None:
    """Raise `UserError`, with JAX's setting as it was, if it had been started elsewhere."""
    import jax

    if platform not in ("auto", running := jax.default_backend()):
        jax.config.update("jax_platforms", before)
        raise UserError(
            f"`platform` {platform} comes too late, JAX has been started on {running}: train "
            "before anything else asks JAX"
        )


def outside() -> dict[str, str]:
    """What was set outside of this program and may change last digits: rule 3."""
    import jax

    flags = os.environ.get("XLA_FLAGS", "").split()
    ours = with_our_flags("", jaxlib_version()).split()
    theirs = [flag for flag in flags if flag not in ours and not flag.startswith(CHANGES_NOTHING)]
    found = {"XLA_FLAGS": " ".join(theirs)}
    found |= {name: os.environ.get(name, "") for name in VARIABLES}
    found |= {name: str(getattr(jax.config, name, None)) for name in RECORDED}
    return {name: value for name, value in found.items() if value}


def join(distributed: Distributed) -> None:
    """Join the other processes; raises `UserError` for an address that cannot be."""
    import jax

    if distributed.coordinator is not None:
        host, _, port = distributed.coordinator.rpartition(":")
        its = host.strip("[]"), int(port)
        named = f"`coordinator` {distributed.coordinator}"
        try:
            socket.getaddrinfo(*its)
        except OSError as error:
            raise UserError(f"{named}: no such host ({error.strerror})") from None
        if distributed.process == 0:  # or JAX crashes
            with suppress(OSError), socket.create_connection(its, 1):
                raise UserError(f"{named}: its port is in use, choose another")
    with suppress(AttributeError):  # a signal is told to all by our own loop
        jax.config.update("jax_enable_preemption_service", False)
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if main else None  # it waits in C++
    try:
        jax.distributed.initialize(
            distributed.coordinator, distributed.processes, distributed.process
        )
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


@contextmanager
def jax_said() -> Iterator[list[str]]:
    """What JAX logs while it looks for devices, in place of pages on standard error."""
    said: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            said.append(" ".join(str(error or record.getMessage()).split())[:300])

    logger, kept = logging.getLogger("jax"), Kept(logging.WARNING)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(kept)
    try:
        yield said
    finally:
        logger.removeHandler(kept)
        logger.propagate = before


def jaxlib_version() -> tuple[int, ...]:
    """The first two numbers of the version of jaxlib, without loading it."""
    return tuple(int(part) for part in version("jaxlib").split(".")[:2])


def with_our_flags(users: str, jaxlib: tuple[int, ...]) -> str:
    """XLA_FLAGS with ours in front; a flag that the user has set is left alone.

    XLA aborts the process over a flag it does not know, so a flag goes in only for the versions of
    jaxlib that were tried with it.
    """
    flags = []
    if (0, 7) <= jaxlib <= NEWEST_TRIED:
        flags += ["--xla_cpu_multi_thread_eigen=false", f"--xla_backend_extra_options={EMITTERS}"]
        flags.append("--xla_cpu_prefer_vector_width=512")  # where there are such; 256 is XLA's own
        parts = min(available_cores(), 32)  # to compile at once; always 32 cost more
        flags.append(f"--xla_cpu_parallel_codegen_split_count={parts}")
    if (0, 9) <= jaxlib <= NEWEST_TRIED:  # YNNPACK's products can't be part of a loop's kernel
        flags.append("--xla_cpu_experimental_ynn_fusion_type=")
    if users and not users.startswith("-"):  # the name of a file with flags
        return users
    ours = [flag for flag in flags if flag.split("=")[0] not in users]
    return " ".join([*ours, users]).strip()


def available_cores() -> int:
    """The CPU cores that this process may use."""
    own = getattr(os, "sched_getaffinity", None)
    return len(own(0)) if own else os.cpu_count() or 1


@cache
def tell_of_few_devices() -> None:
    """Warn, once, if JAX was started with fewer devices than it would have been given here."""
    import jax

    found, cores = jax.local_device_count(), available_cores()
    if jax.default_backend() == "cpu" and found < cores and "JAX_NUM_CPU_DEVICES" not in os.environ:
        warn(
            f"JAX had been started before, with {found} of {cores} cores: training is slower and "
            "other in its last digits; train before anything else asks JAX, or set "
            f"JAX_NUM_CPU_DEVICES={cores}"
        )


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache directory, unless the user has set another."""
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        try:
            cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError:  # a user without a home, as in some containers
            return
        jax.config.update("jax_compilation_cache_dir", str(Path(cache_home) / "srn_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def explain(platform: str, distributed: Distributed | None, reasons: list[str]) -> str:
    """One line for a platform that is not there, or processes that did not find each other."""
    # JAX says nothing where the package that knows the device is missing.
    said = [reason for reason in reasons if reason]
    reason = said[0].splitlines()[0] if said else "nothing for it is installed"
    if distributed is not None:
        return (
            f"the processes did not find each other ({reason}); outside Slurm, Kubernetes and "
            "Cloud TPU give `coordinator`, `processes` and `process`"
        )
    if any(find_spec(plugin) for plugin in PLUGINS.get(platform, ())):
        return (
            f"what JAX needs for a {platform.upper()} is installed but cannot be used ({reason}): "
            "mend that, or use another `platform`"
        )
    if platform in EXTRAS:
        return (
            f"no {platform.upper()} found by JAX ({reason}); on a machine that has one, "
            f"run pip install 'jax[{EXTRAS[platform]}]', or use `platform` auto"
        )
    return f"JAX found no device for `platform` {platform} ({reason})"
