"""Choosing the platform, and what must be said to XLA before JAX starts.

`configure` sets environment variables and imports JAX; call it before anything else does. On a
CPU every core becomes a device, because experiments never talk to each other and XLA's own threads
only add synchronisation to programs as small as these.
"""

import os
import re
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from srn_jax.cli import processes
from srn_jax.errors import UserError, warn
from srn_jax.runs.signals import deferred, interruptible

PLATFORMS = ("auto", "cpu", "gpu", "tpu")
EXTRAS = {"gpu": "cuda13", "tpu": "tpu"}
# JAX takes "gpu" to mean CUDA and ROCm, both, and fails for want of the other.
BACKENDS = {"gpu": "cuda"}

# XLA turns a loop into a single kernel if one pass touches fewer bytes than this. Those of the
# recurrence do with 32 units, at any length (an LSTM's 85 to 90 kB). Those of an SRN with 128 units
# must not, since they are a third slower as a kernel, nor the loops around them, whose large
# products are faster as calls of a library. Loops over a row, unrolled, are not seen to be work for
# vector instructions, so that is left out.
EMITTERS = "xla_cpu_small_while_loop_byte_threshold=90000,xla_cpu_disable_loop_unrolling"
LIBTPU = re.compile(
    rb"TPU accelerator type|before InitGoogle|common_lib\.cc|Source Location Trace|libtpu_init"
)
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
    """Start JAX on a platform.

    Args:
        platform: one of `PLATFORMS`; `auto` takes the best one there is.
        cpu_devices: how many devices the CPU is divided into; None means one for each core.
        distributed: given when this is one of several processes.

    Raises:
        UserError: if the platform is not there, or JAX was told to compute in another way than the
            results of this program are; nothing falls back silently.
    """
    os.environ["XLA_FLAGS"] = with_our_flags(os.environ.get("XLA_FLAGS", ""), jaxlib_version())
    import jax

    for name in ("jax_enable_x64", "jax_disable_jit", "jax_debug_nans", "jax_debug_infs"):
        if getattr(jax.config, name):
            raise UserError(f"{name} is set, with which nothing here trains: leave it out")
    with suppress(AttributeError):  # a JAX that draws in one way alone
        jax.config.update("jax_threefry_partitionable", True)
    if platform != "auto":
        jax.config.update("jax_platforms", BACKENDS.get(platform, platform))
    if cpu_devices is not None or "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", cpu_devices or available_cores())
    use_compilation_cache()
    coordinator = ""
    looks_for_tpu = platform in ("auto", "tpu") and find_spec("libtpu") is not None
    try:
        with without_libtpu() if looks_for_tpu else nullcontext():
            if distributed is not None:
                coordinator = join(distributed)
            with deferred():
                jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(explain(platform, distributed, error)) from None
    if jax.process_count() > 1:
        from jax._src.distributed import global_state  # JAX shows it to nobody

        place = (jax.process_index(), jax.process_count(), coordinator)
        processes.connect(*place, global_state.client)
        counts = Counter(device.process_index for device in jax.devices())
        own = jax.process_index()
        if counts[own] != counts[0]:
            raise UserError(
                f"process {own} has another number of devices than process 0, {counts[own]} and "
                f"{counts[0]}: all need as many (--cpu-devices)"
            )


def join(distributed: Distributed) -> str:
    """Join the other processes; returns HOST:PORT of process 0."""
    import jax

    if distributed.coordinator is not None:
        host, _, port = distributed.coordinator.rpartition(":")
        its = host.strip("[]"), int(port)
        try:
            socket.getaddrinfo(*its)
        except OSError as error:
            raise UserError(
                f"--coordinator {distributed.coordinator}: no such host ({error.strerror})"
            ) from None
        if distributed.process == 0:  # or JAX crashes
            with suppress(OSError), socket.create_connection(its, 1):
                raise UserError(
                    f"--coordinator {distributed.coordinator}: its port is in use, choose another"
                )
        own = f"process {distributed.process} of {distributed.processes}"
        print(f"{own}: waiting for the others at {distributed.coordinator}", flush=True)
    with suppress(AttributeError):  # a signal is told to all by our own loop
        jax.config.update("jax_enable_preemption_service", False)
    coordinator = distributed.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    place = (coordinator, distributed.processes, distributed.process)
    if None in place:
        from jax._src.clusters import ClusterEnv  # which `initialize` asks, too

        place = ClusterEnv.auto_detect_unset_distributed_params(*place, None, None, 300)[:3]
    coordinator, count, process = place
    address = processes.relay(coordinator) if coordinator and process else coordinator
    with interruptible():
        jax.distributed.initialize(address, count, process)
    return coordinator or ""


@contextmanager
def without_libtpu() -> Iterator[None]:
    """Keep back what libtpu writes to standard error where there is no TPU: five lines a start."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            with os.fdopen(os.dup(original), "w", buffering=1) as ours, redirect_stderr(ours):
                yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            kept.seek(0)
            for line in kept:
                if not LIBTPU.search(line):
                    os.write(2, line)


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
    ours = [flag for flag in flags if flag.split("=")[0] not in users]
    return " ".join([*ours, users]).strip()


def available_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def programs_folder() -> Path | None:
    """Where compiled programs are kept by what they are traced from; None where JAX keeps none."""
    import jax

    settings = jax.config.values
    folder = settings["jax_compilation_cache_dir"]
    kept = settings["jax_enable_compilation_cache"] and folder is not None and "://" not in folder
    return Path(folder) / "programs" if kept else None


def explain(platform: str, distributed: Distributed | None, error: Exception) -> str:
    """One line for a platform that is not there, or processes that did not find each other."""
    # JAX says nothing where the package that knows the device is missing.
    reason = (str(error) or "nothing for it is installed").splitlines()[0]
    if distributed is not None:
        return (
            f"the processes did not find each other ({reason}); outside Slurm, Kubernetes and "
            "Cloud TPU give --coordinator, --processes and --process"
        )
    if platform in EXTRAS:
        return (
            f"no {platform.upper()} found by JAX ({reason}); on a machine that has one, "
            f"run pip install 'jax[{EXTRAS[platform]}]', or use --platform auto"
        )
    return f"JAX found no device for --platform {platform} ({reason})"
