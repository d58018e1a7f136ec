"""A run that is stored: its record, and networks out of its checkpoints."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from srn_jax.analysis.records import (
    HISTORIES_FILE,
    RESULTS_FILE,
    Histories,
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
from srn_jax.ensemble.testing import draw_tests, evaluate_experiments, pad_examples
from srn_jax.errors import UserError, shown, warn
from srn_jax.files import digest, read_written, write_atomically
from srn_jax.interop.textbook_files import read_sequences
from srn_jax.phases import Phases
from srn_jax.runs.checkpoint import Checkpoint, layout_of, restore, write
from srn_jax.runs.folder import (
    configs_in,
    holds_run,
    keep_own_files,
    locked,
    make_folder,
    part_folder,
    read_run,
    write_run,
)
from srn_jax.runs.outcome import collect, like, read_data_of
from srn_jax.runs.table import part_configs, part_digest, rows_of
from srn_jax.tasks import task_of
from srn_jax.training.experiment import Scores
from srn_jax.training.network import Network, network_with
from srn_jax.training.program import Program, program_of


class Kept(NamedTuple):
    """What is known of a part: rows of its experiments, and their state if it is in memory."""

    results: pd.DataFrame
    histories: Histories
    items: dict[str, Any] | None = None


@dataclass(frozen=True)
class Networks:
    """Networks of some experiments of a variant."""

    config: SweepConfig  # of the variant, with all of its lengths and seeds
    experiments: tuple[tuple[int, int], ...]  # (length, seed) of each
    parameters: Any  # [experiment, ...]
    trained: np.ndarray  # [experiment]: whether these parameters are anything but the first ones
    which: str = "best"
    files: Mapping[int, Any] | None = None  # their own data, where they are not drawn

    def __len__(self) -> int:
        return len(self.experiments)

    @cached_property
    def program(self) -> Program:
        """The program that trained them."""
        return program_of([self.config], self.files)

    def network(self, index: int) -> Network:
        """One of them as a module; raises `UserError` if it is as it was before training."""
        if not self.trained[index]:
            length, seed = self.experiments[index]
            why = "it diverged before its first evaluation"
            if self.which == "best":
                why = "no evaluation was any good (unless it diverged, 'last' has the last ones)"
            raise UserError(f"length {length}, seed {seed} has no {self.which} parameters: {why}")
        parameters = jax.tree.map(lambda array: array[index], self.parameters)
        return network_with(self.program, parameters)

    def scores(self, data: Path | str | None = None) -> Scores:
        """Loss, accuracy and whole sequences on test sets, each `[experiment]`; NaN if untrained.

        Args:
            data: a folder with `<length>/test.txt`; None takes the data that they were tested on.

        Raises:
            UserError: for data that cannot be read or that the networks cannot take, or the run's
                own that have changed since.
        """
        config, experiments = self.config, list(self.experiments)
        lengths = np.array([length for length, _ in experiments])
        if data is None:
            examples, _ = draw_tests(config, experiments, self.files)
        else:
            sets = read_test_sets(config, Path(data), set(lengths.tolist()))
            padded = [pad_examples(sets[n], max(config.lengths)) for n in lengths.tolist()]
            examples = jax.tree.map(lambda *arrays: np.stack(arrays), *padded)
        found = evaluate_experiments(self.program, self.parameters, examples, lengths)
        return jax.tree.map(lambda values: np.where(self.trained, values, np.nan), found)


def read_test_sets(config: SweepConfig, folder: Path, lengths: set[int]) -> dict[int, Any]:
    """Test sets by length; raises `UserError` for what the networks of a run cannot take."""
    task = task_of(config)
    tokens = getattr(task.inputs, "vocabulary", 0)
    if not tokens or task.answers != 1:
        raise UserError(f"{folder} has tokens and one label each, the networks have another task")
    sets = {length: read_sequences(folder / str(length) / "test.txt", length) for length in lengths}
    if len({len(one) for one in sets.values()}) > 1:
        raise UserError(f"{folder}: test sets of different sizes, test one length at a time")
    for length, one in sets.items():
        if one.digits.max() >= tokens or one.labels.max() >= task.outputs:
            raise UserError(
                f"{folder / str(length) / 'test.txt'}: the networks know {tokens} tokens and "
                f"{task.outputs} classes, it has more"
            )
    return sets


@dataclass
class StoredRun:
    """A run in a folder or in memory, finished or as of its newest checkpoints."""

    folder: Path | None
    info: dict[str, Any]  # what its run file holds
    kept: dict[int, Kept] = field(default_factory=dict)  # parts that were read or trained
    live: list[SweepConfig] | None = None  # its variants, where they are at hand
    objects: Mapping[str, Any] = field(default_factory=dict)
    trust_code: bool = False

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
        for v, (name, differing) in enumerate(zip(*named(settings), strict=True)):
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
        lengths: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
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
        for name, some in (("length", lengths), ("seed", seeds)):
            has = getattr(config, f"{name}s")
            if wrong := [one for one in some or () if one not in has]:
                told = ", ".join(map(str, has[:20]))
                raise UserError(f"the run has no {name} {shown(wrong[0])}, it has {told}")
        chosen = dict.fromkeys(lengths or config.lengths), dict.fromkeys(seeds or config.seeds)
        experiments = tuple((n, s) for n in chosen[0] for s in chosen[1])
        index = {one: place for place, one in enumerate(config.experiments)}
        wanted = np.array([index[one] for one in experiments])
        places, models, trained = [], [], []
        for number, rows, at in rows_of(self.info, v):
            some = np.isin(at, wanted)
            if some.any():
                items = self.items(number)
                if items is None:
                    raise UserError(f"{self.folder}: no checkpoint of this variant yet")
                rows, training = rows[some], items["training"]
                models.append(jax.tree.map(lambda a, r=rows: a[r], items["models"][which]))
                good = training["best_step"] >= 0
                if which == "last":
                    good = np.isfinite(training["histories"]["dev_loss"]).any(axis=1)
                trained.append(good[rows])
                places.append(at[some])
        order = np.argsort(np.concatenate(places))[np.argsort(np.argsort(wanted))]
        parameters = jax.tree.map(lambda *parts: np.concatenate(parts)[order], *models)
        good = np.concatenate(trained)[order]
        return Networks(config, experiments, parameters, good, which, self.files)

    def variant_number(self, variant: str | int | None) -> int:
        """The number of a variant; raises `UserError` for none, or one that must be chosen."""
        names = named(self.info["variants"])[0]
        if variant is None and len(names) == 1:
            return 0
        if variant in names:
            return names.index(str(variant))
        if isinstance(variant, int) and variant in range(len(names)):
            return variant
        told = "several, choose one" if variant is None else f"no `variant` {shown(variant)}"
        raise UserError(f"the run has {told}: {', '.join(names)}")

    def keep_phases(self, phases: Phases) -> None:
        """Add seconds that were spent after training to the run file."""
        self.info["phases"] = phases.and_before(self.info["phases"])
        if self.folder is not None:
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
    return StoredRun(path, info, objects=objects or {}, trust_code=trust_code)


def named(settings: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of variants, and the settings in which they differ."""
    return names_of(settings), parts_of(settings)


def joined(parts: Sequence[tuple[Kept, np.ndarray, np.ndarray]]) -> tuple[Any, Histories]:
    """Results and histories of a variant, by length and seed.

    Args:
        parts: what is kept of a part, the variant's rows in it, and their places in its table.
    """
    order = np.argsort(np.concatenate([places for _, _, places in parts]), kind="stable")
    # What is in order already is not copied: histories may be most of the memory.
    pick = slice(None) if np.array_equal(order, np.arange(len(order))) else order
    rows = [slice(int(r[0]), int(r[-1]) + 1) for _, r, _ in parts]  # which are one stretch
    kepts = [kept for kept, _, _ in parts]
    tables = [kept.results.iloc[own] for kept, own in zip(kepts, rows, strict=True)]
    table = tables[0] if len(tables) == 1 else pd.concat(tables)

    def join(get: Any) -> np.ndarray:
        arrays = [get(kept.histories)[own] for kept, own in zip(kepts, rows, strict=True)]
        return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays))[pick]

    first = kepts[0].histories
    names = ("length", "seed", "train_loss", "epoch_loss", "dev_loss", "dev_accuracy")
    arrays = {name: join(lambda h, n=name: getattr(h, n)) for name in names}
    probes = {name: join(lambda h, n=name: h.probes[n]) for name in first.probes}
    histories = replace(first, **arrays, probes=probes)
    return table.iloc[pick].reset_index(drop=True), histories
