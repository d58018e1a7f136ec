"""A run that is stored: its record, and networks out of its checkpoints."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srn_jax.analysis.records import (
    HISTORIES_FILE,
    Record,
    Variant,
    histories_from_npz,
    histories_npz,
    label_of,
    names_of,
    parts_of,
    results_csv,
    results_from_csv,
)
from srn_jax.config import Facts, SweepConfig
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError, shown, warn
from srn_jax.files import digest, read_written, write_atomically
from srn_jax.phases import Phases
from srn_jax.runs.checkpoint import Checkpoint, layout_of, restore, write
from srn_jax.runs.folder import (
    RESULTS_FILE,
    configs_in,
    holds_run,
    keep_own_files,
    locked,
    make_folder,
    part_folder,
    read_run,
    write_run,
)
from srn_jax.runs.outcome import Kept, collect, joined, like, read_data_of
from srn_jax.runs.restored import Networks
from srn_jax.runs.table import part_configs, part_digest, rows_of

__all__ = ["Kept", "Networks", "StoredRun", "open_run"]


@dataclass
class StoredRun:
    """A run in a folder or in memory, finished or as of its newest checkpoints."""

    folder: Path | None
    info: dict[str, Any]  # what its run file holds
    kept: dict[int, Kept] = field(default_factory=dict)  # parts that were read or trained
    live: list[SweepConfig] | None = None  # its variants, where they are at hand
    objects: Mapping[str, Any] = field(default_factory=dict)
    trust_code: bool = False
    before: dict[str, float] = field(default_factory=dict)  # phases of earlier processes

    @property
    def configs(self) -> list[SweepConfig]:
        """Its variants; raises `UserError` for code that nobody vouches for."""
        if self.live is None:
            self.live = configs_in(self.folder, self.info, self.objects, self.trust_code)
        return self.live

    @cached_property
    def files(self) -> dict[int, Any] | None:
        """Its data files; raises `UserError` if they are not those of then."""
        return read_data_of(self.configs[0])

    @cached_property
    def record(self) -> Record:
        """Results and histories of all that is trained; nothing is run for a finished run.

        Raises:
            UserError: if files are damaged, or nothing is trained yet.
        """
        info = self.info
        every = {n: self.part(n) for n in range(len(info["parts"]))}
        parts = {n: part for n, part in every.items() if part is not None}
        if not parts:
            raise UserError(f"{self.folder}: no checkpoint yet, wait for its first")
        data = info["data"]
        told = data and f"{Path(data['path']).name} (sha256 {data['sha256'][:12]})"
        settings = [{**one, "data": told} for one in info["variants"]]
        shared: dict[str, Any] = {"own": {n: one["sha256"] for n, one in info["own"].items()}}
        if data:
            shared["digests"] = dict(zip(info["lengths"], data["digests"], strict=True))
        variants = []
        for v, (name, differing) in enumerate(
            zip(names_of(settings), parts_of(settings), strict=True)
        ):
            there = [(parts[n], rows, at) for n, rows, at in rows_of(info, v) if n in parts]
            if there:
                results, histories = joined(there)
                facts = Facts(**info["facts"][v])
                told_of = name, label_of(differing), settings[v], facts, results, histories
                variants.append(Variant(*told_of, **shared))
        return Record(tuple(variants), info)

    def part(self, number: int) -> Kept | None:
        """Results and histories of a part, if anything of it is trained."""
        if number not in self.kept:
            if self.info["parts"][number]["finished"]:
                self.kept[number] = self.read(number)
            else:
                sweep = self.sweep(number)
                if (start := self.restore(number, sweep)) is None:
                    return None
                self.kept[number] = Kept(*collect(sweep, self.files, start.items))
        return self.kept[number]

    def read(self, number: int) -> Kept:
        """Results and histories of a finished part, out of its files.

        Raises:
            UserError: if one is damaged, or of other experiments.
        """
        place, part = self.place(number), self.info["parts"][number]
        wanted = [(n, s) for _ in part["variants"] for n in part["lengths"] for s in part["seeds"]]
        found: list[Any] = []
        for name, parse in ((RESULTS_FILE, results_from_csv), (HISTORIES_FILE, histories_from_npz)):
            content = read_written(place / name, part["files"].get(name, ""))
            table: Any = parse(content, str(place / name))
            if [*zip(table.length.tolist(), table.seed.tolist(), strict=True)] != wanted:
                raise UserError(f"{place / name}: its experiments are not those of the run")
            found.append(table)
        return Kept(*found)

    def place(self, number: int) -> Path:
        """The folder of a part."""
        if self.folder is None:
            raise UserError("the run is in memory alone, save it first")
        return part_folder(self.folder, number)

    def sweep(self, number: int, **how: Any) -> Sweep:
        """The plan of a part; `how` is of `Sweep`."""
        return Sweep(part_configs(self.info, number, self.configs), self.files, **how)

    def digest(self, number: int) -> str:
        """What the checkpoints of a part say that they are of."""
        return part_digest(part_configs(self.info, number, self.configs), self.info["own"])

    def restore(self, number: int, sweep: Sweep, **how: Any) -> Checkpoint | None:
        """The newest checkpoint of a part; `how` and errors are of `checkpoint.restore`."""
        layout = layout_of(like(sweep))
        return restore(self.place(number), layout, self.digest(number), **{"warn": warn, **how})

    def items(self, number: int) -> dict[str, Any] | None:
        """The state of a part, in memory or out of its newest checkpoint, if it has one."""
        if number in self.kept and self.kept[number].items is not None:
            return self.kept[number].items
        start = self.restore(number, self.sweep(number))
        return None if start is None else start.items

    def networks(
        self,
        variant: str | int | None = None,
        lengths: Iterable[int] | None = None,
        seeds: Iterable[int] | None = None,
        which: str = "best",
    ) -> Networks:
        """The best or last networks of a variant's experiments, all or some of them.

        Those of an experiment that kept none are the ones that it began with.

        Args:
            variant: its name or number; None if there is but one.
            lengths: only of these; None for all.
            seeds: only of these; None for all.
            which: `best` (on the development set) or `last` parameters.

        Raises:
            UserError: if there is no readable checkpoint, or no such variant, length or seed.
        """
        if which not in ("best", "last"):
            raise UserError(f"`which` must be best or last, got {shown(which)}")
        v = self.variant_number(variant)
        config = self.configs[v]
        lengths, seeds = ([*some] if some is not None else [] for some in (lengths, seeds))
        for name, some in (("length", lengths), ("seed", seeds)):
            has = getattr(config, f"{name}s")
            if wrong := [one for one in some if one not in has]:
                told = ", ".join(map(str, has[:20]))
                raise UserError(f"the run has no {name} {shown(wrong[0])}, it has {told}")
        pairs = [(n, s) for n in lengths or config.lengths for s in seeds or config.seeds]
        experiments = tuple(dict.fromkeys(pairs))  # each once
        place_of = {one: place for place, one in enumerate(config.experiments)}
        wanted = np.array([place_of[one] for one in experiments])
        found: list[Any] = []
        for number, rows, places in rows_of(self.info, v):
            own = np.isin(places, wanted)
            if not own.any():
                continue
            if (items := self.items(number)) is None:
                raise UserError(f"{self.folder}: no checkpoint of these experiments yet")
            training, taken = items["training"], rows[own]
            trained = training["best_step"] >= 0
            if which == "last":
                trained = np.isfinite(training["histories"]["dev_loss"]).any(axis=1)
            tree = trained, items["models"][which]
            found.append((places[own], *jax.tree.map(lambda a, r=taken: a[r], tree)))
        places, trained, parameters = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
        order = np.argsort(places)[np.searchsorted(np.sort(places), wanted)]
        trained, parameters = jax.tree.map(lambda array: array[order], (trained, parameters))
        return Networks(config, experiments, parameters, trained, which, self.files)

    def variant_number(self, variant: str | int | None) -> int:
        """The number of a variant; raises `UserError` for none, or one that must be chosen."""
        names = names_of(self.info["variants"])
        if variant is None and len(names) == 1:
            return 0
        if variant in names:
            return names.index(str(variant))
        if isinstance(variant, int) and variant in range(len(names)):
            return variant
        told = "several, choose one" if variant is None else f"no `variant` {shown(variant)}"
        raise UserError(f"the run has {told}: {', '.join(names)}")

    def keep_phases(self, phases: Phases) -> None:
        """Say in the run file where the seconds of this process have gone, so far."""
        self.info["phases"] = phases.and_before(self.before)
        if self.folder is not None and jax.process_index() == 0:
            write_run(self.folder, self.info)

    def save(self, folder: Path | str) -> None:
        """Write a finished run into a folder, as if it had been trained there.

        Raises:
            UserError: if it is not finished, or the folder is not empty.
        """
        target = Path(folder)
        if not self.info["finished"]:
            raise UserError("the run is not finished, train it to its end first")
        if holds_run(target):
            raise UserError(f"{target} holds a run, choose another `folder`")
        make_folder(target)
        state = {number: self.items(number) for number in range(len(self.info["parts"]))}
        with locked(target):
            saved = StoredRun(target, copy.deepcopy(self.info), dict(self.kept), self.configs)
            saved.begin_writing()
            for number, items in state.items():
                kept = self.part(number)
                if kept is not None and items is not None:
                    blocks = len(kept.histories.eval_steps)
                    write(saved.place(number), blocks, items, saved.digest(number))
                    saved.keep(number, kept)
            saved.keep_results()

    def begin_writing(self) -> None:
        """Write a run file that calls nothing finished, and the user's own files."""
        if self.folder is not None:
            keep_own_files(self.folder, self.configs)
            for part in self.info["parts"]:
                part |= {"finished": False, "files": {}}
            self.info |= {"finished": False, "files": {}}
            write_run(self.folder, self.info)

    def keep(self, number: int, kept: Kept) -> None:
        """Keep the results and histories of a part, and say that it is finished."""
        self.kept[number], part = kept, self.info["parts"][number]
        if self.folder is not None:
            plain = Record((Variant("", "", {}, Facts(), kept.results),))
            contents = {RESULTS_FILE: results_csv(plain)}
            contents[HISTORIES_FILE] = histories_npz(kept.histories)
            self.place(number).mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                write_atomically(self.place(number) / name, content)
                part["files"][name] = digest(content)
        part["finished"] = True
        if self.folder is not None:
            write_run(self.folder, self.info)

    def keep_results(self) -> None:
        """Keep the table of all parts, and say that the run is finished."""
        self.__dict__.pop("record", None)  # of a time when there was less
        content = results_csv(self.record)
        self.info |= {"files": {RESULTS_FILE: digest(content)}, "finished": True}
        if self.folder is not None:
            write_atomically(self.folder / RESULTS_FILE, content)
            write_run(self.folder, self.info)


def open_run(
    folder: Path | str, *, objects: Mapping[str, Any] | None = None, trust_code: bool = False
) -> StoredRun:
    """A run out of its folder, finished or as of its newest checkpoints; nothing is changed.

    Code in the folder is not run before a network is asked for, or a run that is not finished is
    looked at; for the arguments see `folder.configs_in`.

    Raises:
        UserError: if there is no run, or its files are damaged.
    """
    path = Path(folder)
    info = read_run(path)
    if info["finished"]:
        read_written(path / RESULTS_FILE, info["files"].get(RESULTS_FILE, ""))
    told = {"objects": objects or {}, "trust_code": trust_code, "before": info["phases"]}
    return StoredRun(path, info, **told)
