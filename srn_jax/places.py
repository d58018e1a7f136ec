"""Where runs and data are: folders that say what they hold, `runs/latest`, the textbook's files."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from srn_jax.config import DEFAULTS, TEXTBOOK_LENGTHS, SweepConfig
from srn_jax.errors import UserError, shown
from srn_jax.files import digest_of
from srn_jax.runs.folder import RUN_FILE, check_place, locked, make_folder, read_run
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
    parts: list[str] = []
    for name, usual in settings_of(DEFAULTS).items():
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
    return re.sub(r"[^\w=+.@-]+", "_", "-".join(parts))[: LONGEST - len(end)] + end


def default_folder(configs: Sequence[SweepConfig]) -> tuple[Path, bool]:
    """The folder of a run under `runs/`, and whether it holds that run with more than is asked for.

    Where its name is taken by a run with other settings, a digest of the settings goes behind it.
    """
    table, name = table_of(in_order(configs)), name_of_run(configs)
    own = {file: of["sha256"] for file, of in table["own"].items()}
    told = {key: value for key, value in table.items() if key != "own"}
    told["data"] = told["data"] and told["data"]["digests"]
    for folder in (RUNS / name, RUNS / f"{name}-{digest_of([told, own])[:6]}"):
        more = False
        with suppress(UserError, OSError):
            old = read_run(folder)
            grows, more = not grown(old, table)[1], not grown(table, old)[1]
            if grows or more:
                return folder, more and not grows
        if not os.path.lexists(folder):
            break
    return folder, False


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


@contextmanager
def drawing_in(folder: Path, others: bool = True) -> Iterator[None]:
    """Hold a folder for this process while pages and figures are written to it.

    It may be one that a run is trained in. Raises `UserError` if another process draws there, or,
    for `others`, it is the folder of a run.
    """
    check_place(folder)
    if others and (folder / RUN_FILE).exists():
        raise UserError(f"{folder} is the folder of a run, choose another `folder`")
    make_folder(folder / "figures")
    with locked(folder / "figures"):
        yield


def write_data(
    folder: str | Path,
    lengths: tuple[int, ...] = TEXTBOOK_LENGTHS,
    multiplicities: tuple[int, int, int] = (3, 1, 1),
    seed: int = 0,
    overwrite: bool = False,
) -> Iterator[str]:
    """Write files as the textbook draws them, and say of each length what was written.

    `multiplicities` say how often train, dev and test have each pair of digits. Raises `UserError`
    for files with something else in them, unless `overwrite` says that they may be lost.
    """
    from srn_jax.interop.textbook_files import SPLITS, check_same, textbook_splits, write_splits

    folder = Path(folder)
    check_place(folder)
    if folder.exists() and not overwrite:
        for length, splits in textbook_splits(lengths, multiplicities, seed):
            check_same(folder, length, splits)
    make_folder(folder)
    for length, splits in textbook_splits(lengths, multiplicities, seed):
        write_splits(folder, length, splits)
        sizes = ", ".join(f"{len(getattr(splits, name))} {name}" for name in SPLITS)
        yield f"{folder / str(length)}: {sizes}; {splits.overlap} test also in train"
