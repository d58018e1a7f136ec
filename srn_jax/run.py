"""A run, as it is handed to Python: results, networks, and what can be asked of them."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from srn_jax.errors import UserError, shown
from srn_jax.naming import check_comparison_place, path_from
from srn_jax.own_files import own_mistakes
from srn_jax.runs import devices
from srn_jax.runs.folder import make_folder

if TYPE_CHECKING:
    import jax

    from srn_jax.analysis.explanation import Explanation
    from srn_jax.analysis.figures import Gates
    from srn_jax.analysis.look import Look
    from srn_jax.analysis.records import Histories, Variant
    from srn_jax.phases import Phases
    from srn_jax.runs.networks import Networks, StoredRun
    from srn_jax.training.network import Network

TEXTBOOK_SEQUENCE = (6, 7, 0, 0, 1, 0, 0, 0, 0, 0)  # of its figure 6.13
EXPLANATION = "explanation"  # the folder in that of a run


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    `stored` is what there is of it, in its folder or in memory; `platform` where its networks run.
    """

    stored: "StoredRun"
    platform: str = "auto"

    @property
    def folder(self) -> Path | None:
        """Where it is; None while it is in memory alone."""
        return self.stored.folder

    @property
    def results(self) -> pd.DataFrame:
        """A row for each variant, length and seed, with the settings that differ as columns."""
        return self.stored.record.results

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of what is compared in it."""
        return tuple(variant.name for variant in self.stored.record.variants)

    @property
    def histories(self) -> "Histories | dict[str, Histories | None] | None":
        """Losses, and what probes recorded; of several variants, by their names."""
        found = {variant.name: variant.histories for variant in self.stored.record.variants}
        return next(iter(found.values())) if len(found) == 1 else found

    def summary(self) -> pd.DataFrame:
        """Means over seeds and their intervals, a row for each variant and length."""
        from srn_jax.analysis.stats import summarise

        return summarise(self.results)

    def networks(
        self,
        variant: str | None = None,
        lengths: Iterable[int] | None = None,
        seeds: Iterable[int] | None = None,
        which: str = "best",
    ) -> "Networks":
        """Trained networks of a variant; for the arguments see `network`."""
        devices.start(self.platform)
        return self.stored.networks(self.one_of(variant), lengths, seeds, which)

    def network(
        self, length: int, seed: int, variant: str | None = None, which: str = "best"
    ) -> "Network":
        """The trained network of one experiment, a flax.nnx module.

        Args:
            length: on which it was trained.
            seed: of the run's.
            variant: its name, where there are several.
            which: `best` (on the development set) or `last` parameters.

        Raises:
            UserError: if the run has no such experiment.
        """
        return self.networks(variant, [length], [seed], which).network(0)

    def states(
        self,
        inputs: Any,
        length: int,
        seed: int,
        variant: str | None = None,
        which: str = "best",
    ) -> "jax.Array":
        """The hidden states `[batch, time, D]` of a network over inputs `[batch, time]`."""
        import jax.numpy as jnp

        states = self.network(length, seed, variant, which).states(jnp.asarray(inputs))
        return states.swapaxes(0, 1)

    def evaluate(
        self,
        data: str | Path | None = None,
        variant: str | None = None,
        lengths: Iterable[int] | None = None,
        seeds: Iterable[int] | None = None,
        which: str = "best",
    ) -> pd.DataFrame:
        """Test accuracy and loss of its networks, on their own test sets or on files.

        Args:
            data: a folder with `<length>/test.txt`; None for the run's own data.
            variant: its name; None for all.
            lengths: only these; None for all.
            seeds: only these; None for all.
            which: `best` or `last` parameters.
        """
        tables = {}
        for name in self.variants if variant is None else [self.one_of(variant)]:
            networks = self.networks(name, lengths, seeds, which)
            scores = networks.scores(None if data is None else Path(data))
            table = experiments_table(networks)
            table["test_accuracy"], table["test_loss"] = scores.accuracy, scores.loss
            tables[name] = table
        return self.joined(tables)

    def predict(
        self,
        tokens: "str | Iterable[int]",
        variant: str | None = None,
        lengths: Iterable[int] | None = None,
        seeds: Iterable[int] | None = None,
        which: str = "best",
    ) -> pd.DataFrame:
        """What its networks answer to a sequence: `answer`, `probability`, and `right` if known."""
        from srn_jax.predictions import predictions

        tables = {}
        for name in self.variants if variant is None else [self.one_of(variant)]:
            networks = self.networks(name, lengths, seeds, which)
            tables[name] = pd.concat(
                [experiments_table(networks), predictions(networks, tokens)], axis=1
            )
        return self.joined(tables)

    def explain(
        self,
        folder: str | Path | None = None,
        *,
        variant: str | None = None,
        lengths: Iterable[int] | None = None,
        threshold: float = 0.5,
        look: "Look | None" = None,
        report: Any = None,
    ) -> "dict[str, Explanation]":
        """Why its networks forget, by variant; pages and figures go into a folder.

        Args:
            folder: None for `explanation` in that of the run; a run in memory writes nothing.
            variant: its name; None for all.
            lengths: only these; None for all.
            threshold: test accuracy above which a network is a solver.
            look: of the figures.
            report: called with how many networks are done, and of how many.

        Raises:
            UserError: for a run that is not finished, or has no trained network.
        """
        devices.start(self.platform)
        from srn_jax.analysis.explanation import explain_variant
        from srn_jax.analysis.explanation_figures import write_explanation
        from srn_jax.interop.textbook_files import read_data
        from srn_jax.tasks import task_of

        if not self.stored.info.get("finished", True):
            raise UserError(f"{self.folder} is not finished, resume it first")
        found, question = {}, ""
        chosen = None if lengths is None else [*lengths]
        for name in self.variants if variant is None else [self.one_of(variant)]:
            stages = {which: self.stored.networks(name, which=which) for which in ("best", "last")}
            config, results = stages["best"].config, self.record_of(name).results
            files = None if config.data is None else read_data(config.data.path, config.lengths)[1]
            left_out = np.asarray(results.diverged | results.test_accuracy.isna())
            if left_out.all():
                continue
            trained = {which: networks.parameters for which, networks in stages.items()}
            with own_mistakes(config.experiment.cell, config.experiment.task):
                found[name] = explain_variant(
                    config, trained, left_out, files, threshold, chosen, report
                )
                question = task_of(config).question
        if not found:
            raise UserError("no network of the run is trained, so there is nothing to explain")
        place = Path(folder) if folder is not None else self.folder and self.folder / EXPLANATION
        if place:
            write_explanation(found, place, look or default_look(), question)
        return found

    def gates(
        self,
        tokens: "str | Iterable[int]",
        seed: int | None = None,
        variant: str | None = None,
    ) -> "Gates":
        """What the gates of the network of a sequence's length do along it.

        Raises:
            UserError: for a sequence, length or seed that cannot be, or a cell without gates.
        """
        from srn_jax.predictions import gates

        variant = self.one_of(variant)
        networks = self.networks(variant, which="best")
        return gates(networks, tokens, seed)

    def report(
        self,
        folder: str | Path | None = None,
        look: "Look | None" = None,
        variant: str | None = None,
        phases: "Phases | None" = None,
    ) -> list[Path]:
        """Write figures, tables, report.md and report.html; returns what was written.

        Args:
            folder: None for that of the run; of another one nothing of the run changes.
            look: of the figures.
            variant: of this one alone, into a folder of its own; None for all.
            phases: where the seconds that it takes are counted.
        """
        from srn_jax.analysis.report import write_report

        record, place = self.stored.record, self.folder
        if variant is not None:
            record, place = replace(record, variants=(self.record_of(variant),)), None
        place = place if folder is None else path_from("folder", folder)
        if place is None:
            raise UserError("give a `folder` for the report")
        ours = self.folder is not None and place.resolve() == self.folder.resolve()
        if not ours or variant is not None:
            check_comparison_place(place)
            make_folder(place)
        gates = self.textbook_gates([one.name for one in record.variants])
        return write_report(record, place, look or default_look(), phases, gates)

    def textbook_gates(self, variants: Iterable[str]) -> "dict[str, Gates]":
        """The gates of figure 6.13, by variant, of those that have such and the book's length."""
        found = {}
        for name in variants:
            one = self.record_of(name)
            gated = one.settings["cell"] not in ("srn", "residual-srn")
            if gated and (one.results.length == len(TEXTBOOK_SEQUENCE)).any():
                with suppress(UserError):  # a cell, a task or a network that has none to show
                    found[name] = self.gates(TEXTBOOK_SEQUENCE, None, name)
        return found

    def save(self, folder: str | Path) -> "Run":
        """Write a run that is in memory to a folder, with its report; returns the run there."""
        self.stored.save(path_from("folder", folder))
        saved = Run(replace(self.stored, folder=Path(folder)), self.platform)
        saved.report()
        return saved

    def one_of(self, variant: str | None) -> str:
        """The name of a variant; raises `UserError` for none where there are several."""
        if variant is None and len(self.variants) == 1:
            return self.variants[0]
        if variant not in self.variants:
            got = "give one of them" if variant is None else f"got {shown(variant)}"
            raise UserError(f"`variant`: the run has {', '.join(self.variants)}, {got}")
        return variant

    def record_of(self, variant: str) -> "Variant":
        """What is recorded of a variant."""
        self.one_of(variant)
        return self.stored.record.variants[self.variants.index(variant)]

    def joined(self, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """One table of those of several variants, whose names are its first column."""
        if len(self.variants) == 1:
            return next(iter(tables.values()))
        return pd.concat(tables, names=["variant", None]).reset_index(0).reset_index(drop=True)

    def __repr__(self) -> str:
        from srn_jax.analysis.report import closing_text

        where = "in memory" if self.folder is None else f"in {self.folder}"
        finished = self.stored.info.get("finished", True)
        ended = "" if finished else " (not finished, as of its newest checkpoints)"
        return f"{closing_text(self.stored.record)}\n\n{where}{ended}"


def experiments_table(networks: "Networks") -> pd.DataFrame:
    """The length and seed of each network."""
    return pd.DataFrame([*networks.experiments], columns=["length", "seed"])


def default_look() -> "Look":
    """The look of figures where none is given."""
    from srn_jax.analysis.look import Look

    return Look()
