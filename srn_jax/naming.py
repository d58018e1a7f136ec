"""Where runs are: folders that say what they hold, `runs/latest`, and where nothing may be."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from srn_jax.config import DEFAULTS, TEXTBOOK_LENGTHS, SweepConfig
from srn_jax.errors import UserError, shown
from srn_jax.files import digest_of
from srn_jax.runs.folder import RUN_FILE, check_place, read_run
from srn_jax.runs.settings import grown, in_order, settings_of, table_of

RUNS, LATEST = Path("runs"), "latest"
LONGEST = 80  # characters of a folder's name


def path_from(name: str, value: Any) -> Path:
    """A path that was given as an argument; raises `UserError` for what is none."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UserError(f"`{name}` must be a path, got {shown(value)}")
    return Path(value)


def run_folder(value: Any) -> Path:
    """The folder of a run that was given; `runs/latest` may be a text file that names it."""
    path = path_from("folder", value)
    with suppress(OSError, ValueError):
        if path.name == LATEST and path.is_file():
            name = path.read_text(encoding="utf-8").strip()
            if name and Path(name).name == name:
                return path.with_name(name)
    return path


def name_of_run(configs: Sequence[SweepConfig]) -> str:
    """What a run is, in a few words: `srn+lstm-8seeds`."""
    settings = [settings_of(config.experiment) for config in configs]
    defaults = settings_of(DEFAULTS)
    parts: list[str] = []
    for name, usual in defaults.items():
        values = [*dict.fromkeys(str(each[name]).rpartition(":")[2] for each in settings)]
        if name == "cell":
            parts.insert(0, "+".join(values))
        elif name == "task" and values != [usual]:
            parts.append("+".join(values))
        elif len(values) > 1:
            parts.append(f"{name}={'+'.join(values)}")
    if (lengths := configs[0].lengths) != TEXTBOOK_LENGTHS:
        parts.append(f"L{lengths[0]}" + (f"-{lengths[-1]}" if len(lengths) > 1 else ""))
    number = len(configs[0].seeds)
    end = f"-{number}seeds" if number > 1 else "-1seed"
    words = re.sub(r"[^\w=+.@-]+", "_", "-".join(parts))
    return words[: LONGEST - len(end)] + end


def default_folder(configs: Sequence[SweepConfig]) -> Path:
    """The folder of a run under `runs/`: its own where it is there already, else one that is free.

    Where its name is taken by a run with other settings, a digest of the settings goes behind it.
    """
    table = table_of(in_order(configs))
    name = name_of_run(configs)
    told = {key: value for key, value in table.items() if key != "own"}
    own = {file: of["sha256"] for file, of in table["own"].items()}
    if told["data"] is not None:
        told["data"] = told["data"]["digests"]
    for folder in (RUNS / name, RUNS / f"{name}-{digest_of([told, own])[:6]}"):
        if not os.path.lexists(folder) or _fits(folder, table) or _fits(folder, table, grows=True):
            return folder
    return folder


def has_more(folder: Path, configs: Sequence[SweepConfig]) -> bool:
    """Whether a folder holds a run of all that is asked for, and more: one that has grown."""
    table = table_of(in_order(configs))
    return _fits(folder, table) and not _fits(folder, table, grows=True)


def _fits(folder: Path, table: Mapping[str, Any], grows: bool = False) -> bool:
    try:
        old = read_run(folder)
    except (UserError, OSError):
        return False
    return not grown(old, table)[1] if grows else not grown(table, old)[1]


def point_to_newest(folder: Path) -> None:
    """Let `runs/latest` name a run in `runs/`: a link, or a file of one line where there are none.

    What else has that name, and a folder that cannot be written, are left as they are.
    """
    latest = folder.parent / LATEST
    ours = latest.is_symlink() or latest.is_file() or not os.path.lexists(latest)
    if folder.parent.absolute() != RUNS.absolute() or not ours or folder.name == LATEST:
        return
    new = latest.with_name(f".{LATEST}-{os.getpid()}")
    with suppress(OSError):
        latest.parent.mkdir(parents=True, exist_ok=True)
        try:
            new.symlink_to(folder.name, target_is_directory=True)
        except (OSError, NotImplementedError):  # a file system or a Windows without links
            new.write_text(folder.name + "\n", encoding="utf-8")
        os.replace(new, latest)


def check_comparison_place(folder: Path) -> None:
    """Raise `UserError` where a comparison must not be written."""
    check_place(folder)
    if (folder / RUN_FILE).exists():
        raise UserError(f"{folder} is the folder of a run, choose another `folder`")
