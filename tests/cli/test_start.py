"""How a command begins: streams, terminals, environments, JAX's settings, several processes."""

import io
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from srn_jax.cli import options as cli
from srn_jax.errors import UserError
from srn_jax.runs import devices
from srn_jax.runs.progress import BarReporter, PlainReporter, SilentReporter, reporter_for


def started(*arguments, code="", **environment):
    """A process that starts JAX; returns its status, output and errors."""
    code = f"from srn_jax.runs import devices\ndevices.configure(*{arguments!r})\n{code}"
    given = os.environ | {"JAX_PLATFORMS": ""} | environment
    given = {name: value for name, value in given.items() if value is not None}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def a_terminal(kind, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", kind)
    return terminal


@pytest.mark.parametrize(("kind", "bar"), [("xterm", True), ("dumb", False)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(kind, bar, monkeypatch):
    a_terminal(kind, monkeypatch)
    assert isinstance(reporter_for(), BarReporter) == bar
    assert isinstance(reporter_for(first=False), SilentReporter)


@pytest.mark.parametrize(("kind", "bar"), [("xterm", True), ("dumb", False)])
def test_bar_and_lines_show_the_same(kind, bar, monkeypatch):
    terminal = a_terminal(kind, monkeypatch)
    numbers = {"length": [5, 7], "diverged": [False, True], "train_loss": [0.5] * 2}
    numbers |= {"dev_accuracy": [0.25, 0.0], "step": 100, "block": 1, "blocks": 2}
    arrays = {k: np.array(v) if isinstance(v, list) else v for k, v in numbers.items()}
    with reporter_for() as reporter:
        assert isinstance(reporter, BarReporter) == bar
        reporter.say("compiling")
        reporter.progress(SimpleNamespace(**arrays))
    for text in ("step 100   50%", "L=5: loss 0.50 dev 0.25", "L=7: diverged"):
        assert text in terminal.getvalue()


def test_without_a_terminal_there_are_lines_also_where_there_is_no_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert type(reporter_for()) is PlainReporter


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("srn-jax explain", ["srn-jax", "sweep"]),
        ("python -m srn_jax explain", ["python", "-m", "srn_jax", "sweep"]),
        ("scripts/explain.py", ["python", "scripts/sweep.py"]),
    ],
)
def test_a_hint_names_the_program_as_it_was_called(name, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name])
    assert cli.called("sweep") == words


def test_a_notebooks_own_matplotlib_is_not_that_of_a_script(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://not_installed.backend")
    with pytest.raises(SystemExit):
        cli.run_script(lambda _: None)
    assert os.environ["MPLBACKEND"] == "agg"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_disable_jit", True),
        ("jax_debug_nans", True),
        ("jax_random_seed_offset", 1),
        ("jax_default_prng_impl", "rbg"),
    ],
)
def test_a_setting_that_gives_other_numbers_is_refused_by_name(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        with pytest.raises(
            UserError, match=rf"{name} is {value}.*environment it is {name.upper()}"
        ):
            devices.start()
    finally:
        jax.config.update(name, before)


def test_every_setting_that_is_refused_set_or_recorded_is_one_that_jax_has_or_had():
    known = {*jax.config.values}
    for names in (devices.REFUSED, devices.SET, devices.RECORDED):
        assert len(known & {*names}) >= len(names) - 2
    assert not {*devices.REFUSED} & {*devices.SET, *devices.RECORDED}


def test_what_only_forbids_is_set_and_nothing_of_it_is_recorded(monkeypatch):
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    devices.start()
    assert jax.config.jax_numpy_dtype_promotion == "standard"


def test_flags_of_the_users_are_told_and_ours_are_not(monkeypatch):
    users = "--xla_force_host_platform_device_count=8 --xla_a=1"  # the first changes no number
    monkeypatch.setenv("XLA_FLAGS", devices.with_our_flags(users, devices.jaxlib_version()))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    told = devices.outside()
    assert told["XLA_FLAGS"] == "--xla_a=1" and told["NVIDIA_TF32_OVERRIDE"] == "0"
    assert "jax_default_matmul_precision" in told


def test_flags_for_xla_go_in_for_versions_that_know_them_and_never_over_the_users():
    assert devices.with_our_flags("--xla_abc=1", (0, 13)) == "--xla_abc=1"
    assert devices.with_our_flags("/a/file/of/flags", (0, 10)) == "/a/file/of/flags"
    assert "ynn" not in devices.with_our_flags("", (0, 7))
    ours = devices.with_our_flags("", (0, 10)).split()
    users = "--xla_cpu_multi_thread_eigen=true"
    assert len(ours) == 5
    assert devices.with_our_flags(users, (0, 10)).split() == [*ours[1:], users]


@pytest.mark.parametrize(
    "flags",
    ["--xla_cpu_enable_fast_math=true", "--xla_cpu_enable_fast_math", "--xla_a=1 "
     "--xla_cpu_fast_math_honor_nans=false"],
)  # fmt: skip
def test_flags_under_which_nothing_is_nan_are_refused(flags, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(UserError, match="XLA_FLAGS has --xla_cpu"):
        devices.start()


@pytest.mark.slow
def test_what_xla_says_before_it_aborts_is_seen():
    status, _, said = started("cpu", XLA_FLAGS="--xla_nonsense=4")
    assert status != 0 and "--xla_nonsense=4" in said


@pytest.mark.slow
def test_a_plugin_that_is_installed_and_broken_says_why_and_nobody_advises_to_install(tmp_path):
    (tmp_path / "jax_cuda13_plugin").mkdir()
    (tmp_path / "jax_cuda13_plugin" / "__init__.py").write_text("")
    (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda13" / "__init__.py").write_text(
        "def initialize():\n    raise RuntimeError('the driver is too old')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    _, _, said = started("gpu", PYTHONPATH=path)
    assert "installed but cannot be used (the driver is too old)" in said.splitlines()[-1]
    assert "pip install" not in said
    status, _, said = started(PYTHONPATH=path)
    assert status == 0 and said == "warning: trained on the CPU, since the driver is too old\n"


@pytest.mark.slow
def test_a_home_that_cannot_be_written_changes_nothing(tmp_path):
    code = "import jax; print(jax.jit(lambda x: x + 1)(1))"
    status, shown, said = started(
        "cpu", code=code, HOME="/proc/nowhere", XDG_CACHE_HOME=None, JAX_COMPILATION_CACHE_DIR=None
    )
    assert (status, shown.strip(), said) == (0, "2", "")


def test_jax_started_before_with_fewer_devices_is_told_once(monkeypatch, capsys):
    monkeypatch.setattr(devices, "available_cores", lambda: 64)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    devices.tell_of_few_devices.cache_clear()
    for _ in range(2):
        devices.start()
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("warning: JAX had been started before, with 2 of 64 cores")


def test_a_platform_that_comes_too_late_is_told():
    with pytest.raises(UserError, match="`platform` tpu comes too late, JAX has been started on"):
        devices.start("tpu")


@pytest.mark.parametrize(
    ("address", "says"),
    [("no-such-host.invalid:9", "no such host"), ("127.0.0.1:{port}", "its port is in use")],
)
def test_an_address_that_cannot_be_is_told_before_anyone_waits(address, says):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address.format(port=server.getsockname()[1])
        with pytest.raises(UserError, match=says):
            devices.join(devices.Distributed(address, 2, 0))


def test_what_jax_logs_while_it_looks_for_devices_is_kept(capsys):
    with devices.jax_said() as said:
        logging.getLogger("jax._src.xla_bridge").warning("one\n  two")
    assert said == ["one two"] and capsys.readouterr().err == ""
