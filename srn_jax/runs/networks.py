"""A run that is stored: its record, and networks out of its checkpoints."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srn_jax.analysis import records
from srn_jax.analysis.records import (
    HISTORIES_FILE,
    Record,
    Variant,
    histories_from_npz,
    results_csv,
)
from srn_jax.config import Facts, SweepConfig
from srn_jax.ensemble.mapping import draw_tests, evaluate_experiments, pad_examples
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError, shown, warn
from srn_jax.files import digest, read_written, write_atomically, write_manifest
from srn_jax.interop.textbook_files import read_sequences
from srn_jax.phases import Phases
from srn_jax.runs import checkpoint, folder, settings
from srn_jax.runs.folder import RESULTS_FILE, RUN_FILE
from srn_jax.runs.outcome import Kept, collect, joined, like, read_data_of
from srn_jax.training.experiment import Scores
from srn_jax.training.network import Network, network_with
from srn_jax.training.program import Program, program_of


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
        """What trained them."""
        return program_of([self.config], self.files)

    def network(self, index: int) -> Network:
        """One of them as a module; raises `UserError` if it is as it was before training."""
        if not self.trained[index]:
            length, seed = self.experiments[index]
            why = "it diverged, or no evaluation was any good ('last' may have others)"
            raise UserError(f"length {length}, seed {seed} has no {self.which} parameters: {why}")
        parameters = jax.tree.map(lambda array: array[index], self.parameters)
        return network_with(self.program, parameters)

    def scores(self, data: Path | str | None = None) -> Scores:
        """Loss, accuracy and whole sequences on test sets, each `[experiment]`; NaN if untrained.

        `data` is a folder with `<length>/test.txt`, or None for what they were tested on. Raises
        `UserError` for data that cannot be read or that the networks cannot take.
        """
        config, experiments = self.config, list(self.experiments)
        lengths = np.array([length for length, _ in experiments])
        if data is None:
            examples, _ = draw_tests(config, experiments, self.files)
        else:
            task, sets = self.program.task, dict[int, Any]()
            tokens = getattr(task.inputs, "vocabulary", 0) if task.answers == 1 else 0
            for length in sorted(set(lengths.tolist())):
                path = Path(data) / str(length) / "test.txt"
                sets[length] = one = read_sequences(path, length)
                if one.digits.max() >= tokens or one.labels.max() >= task.outputs:
                    told = f"{tokens} tokens and {task.outputs} classes, one answer each"
                    raise UserError(f"{path}: it has more than the networks know ({told})")
            if len({len(one) for one in sets.values()}) > 1:
                raise UserError(f"{data}: test sets of different sizes, test one length at a time")
            padded = [pad_examples(sets[n], max(config.lengths)) for n in lengths.tolist()]
            examples = jax.tree.map(lambda *arrays: np.stack(arrays), *padded)
        found = evaluate_experiments(self.program, self.parameters, examples, lengths)
        return jax.tree.map(lambda values: np.where(self.trained, values, np.nan), found)


@dataclass
class StoredRun:
    """A run in a folder or in memory, finished or as of its newest checkpoints."""

    folder: Path | None
    info: dict[str, Any]  # what its run file holds
    kept: dict[int, Kept] = field(default_factory=dict)  # parts that were read or trained
    live: list[SweepConfig] | None = None  # its variants, where they are at hand
    objects: Mapping[str, Any] = field(default_factory=dict)
    trust_code: bool = False
    phases: Phases = field(default_factory=Phases)  # of the process that trains it
    before: Mapping[str, float] | None = None  # phases of earlier ones; None if it trains nothing

    @property
    def configs(self) -> list[SweepConfig]:
        """Its variants; raises `UserError` for code that nobody vouches for."""
        if self.live is None:
            self.live = folder.configs_in(self.folder, self.info, self.objects, self.trust_code)
        return self.live

    @cached_property
    def files(self) -> dict[int, Any] | None:
        """Its data files; raises `UserError` if they are not those of then."""
        return read_data_of(self.configs[0])

    @cached_property
    def record(self) -> Record:
        """Results and histories of all that is trained; nothing is run for a finished run.

        Raises `UserError` if files are damaged, or nothing is trained yet.
        """
        info, data = self.info, self.info["data"]
        parts = [(part, self.part(number)) for number, part in enumerate(info["parts"])]
        told = data and f"{Path(data['path']).name} (sha256 {data['sha256'][:12]})"
        every = [{**one, "data": told} for one in info["variants"]]
        shared: dict[str, Any] = {"own": {n: one["sha256"] for n, one in info["own"].items()}}
        if data:
            shared["digests"] = dict(zip(info["lengths"], data["digests"], strict=True))
        variants = []
        named = zip(records.names_of(every), records.parts_of(every), strict=True)
        for v, (name, differing) in enumerate(named):
            there = []
            for part, kept in parts:
                if kept is not None and v in part["variants"]:
                    size = len(part["lengths"]) * len(part["seeds"])
                    first = part["variants"].index(v) * size
                    there.append((kept, slice(first, first + size)))
            if there:
                about = name, records.label_of(differing), every[v], Facts(**info["facts"][v])
                variants.append(Variant(*about, *joined(there), **shared))
        if not variants:
            raise UserError(f"{self.folder}: no checkpoint yet, wait for its first")
        return Record(tuple(variants), info)

    def part(self, number: int) -> Kept | None:
        """Results and histories of a part, if anything of it is trained."""
        place, part = self.place(number), self.info["parts"][number]
        if number not in self.kept and not part["finished"]:
            sweep = self.sweep(number)
            if (start := self.restore(number, sweep)) is None:
                return None
            self.kept[number] = Kept(*collect(sweep, self.files, start[1]))
        elif number not in self.kept:
            wanted, found = [one[1:] for one in settings.part_experiments(part)], list[Any]()
            read = (RESULTS_FILE, records.results_from_csv), (HISTORIES_FILE, histories_from_npz)
            for name, parse in read:
                content = read_written(place / name, part["files"].get(name, ""))
                table: Any = parse(content, str(place / name))
                if [*zip(table.length.tolist(), table.seed.tolist(), strict=True)] != wanted:
                    raise UserError(f"{place / name}: its experiments are not those of the run")
                found.append(table)
            self.kept[number] = Kept(*found)
        return self.kept[number]

    def place(self, number: int) -> Path:
        """The folder of a part; of a run in memory, of nothing."""
        return Path(self.folder or "") / folder.PARTS_FOLDER / str(number)

    def sweep(self, number: int, **how: Any) -> Sweep:
        """The plan of a part; `how` is of `Sweep`."""
        configs = settings.part_configs(self.info["parts"][number], self.configs)
        return Sweep(configs, self.files, **how)

    def restore(
        self, number: int, sweep: Sweep, warn: Any = warn, clean: bool = False
    ) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint of a part, see `checkpoint.restore`."""
        layout, told = checkpoint.layout_of(like(sweep)), self.digest(sweep)
        return checkpoint.restore(self.place(number), layout, told, warn, clean)

    def digest(self, sweep: Sweep) -> str:
        """What the checkpoints of a part say that they are of."""
        return settings.part_digest(sweep.configs, self.info["own"])

    def items(self, number: int) -> dict[str, Any] | None:
        """The state of a part, in memory or out of its newest checkpoint, if it has one."""
        if number in self.kept and self.kept[number].items is not None:
            return self.kept[number].items
        start = self.restore(number, self.sweep(number))
        return None if start is None else start[1]

    def networks(
        self,
        variant: str | int = 0,
        lengths: Iterable[int] | None = None,
        seeds: Iterable[int] | None = None,
        which: str = "best",
    ) -> Networks:
        """The best or last networks of a variant's experiments, all or some of them.

        Those of an experiment that kept none are the ones that it began with.

        Args:
            variant: its name or number.
            lengths: only of these; None for all.
            seeds: only of these; None for all.
            which: `best` (on the development set) or `last` parameters.

        Raises:
            UserError: if there is no readable checkpoint, or no such variant, length or seed.
        """
        if which not in ("best", "last"):
            raise UserError(f"`which` must be best or last, got {shown(which)}")
        names, chosen = records.names_of(self.info["variants"]), list[list[int]]()
        v = variant if isinstance(variant, int) else names.index(variant)
        config = self.configs[v]
        for name, some in (("length", lengths), ("seed", seeds)):
            has = getattr(config, f"{name}s")
            chosen.append(list(dict.fromkeys(has if some is None else some)))  # each once
            if wrong := [one for one in chosen[-1] if one not in has]:
                told = ", ".join(map(str, has[:20]))
                raise UserError(f"the run has no {name} {shown(wrong[0])}, it has {told}")
        experiments = [(n, s) for n in chosen[0] for s in chosen[1]]
        wanted = {(v, *one): row for row, one in enumerate(experiments)}
        found, places = list[Any](), list[int]()
        for number, part in enumerate(self.info["parts"]):
            every = settings.part_experiments(part)
            rows = np.array([row for row, one in enumerate(every) if one in wanted], int)
            if not len(rows):
                continue
            if (items := self.items(number)) is None:
                raise UserError(f"{self.folder}: no checkpoint of these experiments yet")
            training = items["training"]
            trained = training["best_step"] >= 0
            if which == "last":
                trained = np.isfinite(training["histories"]["dev_loss"]).any(axis=1)
            tree = trained, items["models"][which]
            found.append(jax.tree.map(lambda array, r=rows: array[r], tree))
            places += [wanted[every[row]] for row in rows]
        order = np.argsort(places)
        trained, parameters = jax.tree.map(lambda *parts: np.concatenate(parts)[order], *found)
        return Networks(config, tuple(experiments), parameters, trained, which, self.files)

    def keep_phases(self) -> None:
        """Say in the run file where the seconds of the process that trained it have gone."""
        if self.before is not None:
            self.info["phases"] = self.phases.and_before(self.before)
            self.write_info()

    def write_info(self) -> None:
        """Write the run file, if this is the process that does."""
        if self.folder is not None and jax.process_index() == 0:
            write_manifest(self.folder / RUN_FILE, self.info)

    def save(self, target: Path | str) -> None:
        """Write a finished run into a folder without one, as if it had been trained there."""
        place = Path(target)
        if folder.holds_run(place) or not self.info["finished"]:
            raise UserError(f"{place} holds a run, choose another `folder`, or this has not ended")
        folder.make_folder(place)
        with folder.locked(place):
            saved = StoredRun(place, copy.deepcopy(self.info), live=self.configs)
            folder.keep_own_files(place, self.configs)
            for part in (saved.info, *saved.info["parts"]):
                part |= {"finished": False, "files": {}}
            saved.write_info()
            for number in range(len(saved.info["parts"])):
                kept, items = self.part(number), self.items(number)
                if kept is not None and items is not None:
                    told, blocks = self.digest(self.sweep(number)), len(kept.histories.eval_steps)
                    checkpoint.write(saved.place(number), blocks, items, told)
                    saved.keep(number, kept)
            saved.keep_results()

    def keep(self, number: int, kept: Kept) -> None:
        """Keep the results and histories of a part, and say that it is finished."""
        self.kept[number], part = kept, self.info["parts"][number]
        if self.folder is not None:
            plain = Record((Variant("", "", {}, Facts(), kept.results),))
            contents = {RESULTS_FILE: results_csv(plain)}
            contents[HISTORIES_FILE] = records.histories_npz(kept.histories)
            self.place(number).mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                write_atomically(self.place(number) / name, content)
                part["files"][name] = digest(content)
        part["finished"] = True
        self.write_info()

    def keep_results(self) -> None:
        """Keep the table of all parts, and say that the run is finished, if it is not said."""
        content, path = results_csv(self.record), Path(self.folder or "") / RESULTS_FILE
        told = {"files": {RESULTS_FILE: digest(content)}, "finished": True}
        if self.folder is not None and not (path.exists() and path.read_bytes() == content):
            write_atomically(path, content)
        if {**self.info, **told} != self.info:
            self.info |= told
            self.write_info()


def open_run(
    path: Path | str, *, objects: Mapping[str, Any] | None = None, trust_code: bool = False
) -> StoredRun:
    """A run out of its folder, finished or as of its newest checkpoints; nothing is changed.

    Code in the folder is not run before a network is asked for, or a run that is not finished is
    looked at; for the arguments see `folder.configs_in`. Raises `UserError` for damaged files.
    """
    path = Path(path)
    info = folder.read_run(path)
    if info["finished"]:
        read_written(path / RESULTS_FILE, info["files"].get(RESULTS_FILE, ""))
    return StoredRun(path, info, objects=objects or {}, trust_code=trust_code)
