"""A run, as it is handed to Python: results, networks, and what can be asked of them."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from srn_jax.analysis import report as pages
from srn_jax.analysis.figures import Gates
from srn_jax.analysis.look import DEFAULT_LOOK, Look
from srn_jax.analysis.stats import summarise
from srn_jax.errors import UserError, shown
from srn_jax.own_files import own_mistakes
from srn_jax.places import drawing_in, path_from
from srn_jax.runs import devices

if TYPE_CHECKING:
    import jax

    from srn_jax.analysis.explanation import Explanation
    from srn_jax.analysis.records import Histories, Variant
    from srn_jax.phases import Phases
    from srn_jax.runs.networks import Networks, StoredRun
    from srn_jax.training.network import Network

TEXTBOOK_SEQUENCE = (6, 7, 0, 0, 1, 0, 0, 0, 0, 0)  # of its figure 6.13
Numbers = Iterable[int] | None


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

    @property
    def figures(self) -> dict[str, Path]:
        """The PNG files of its report by name, such as `memory_curve`."""
        place = Path() if self.folder is None else self.folder / "figures"
        found = sorted(place.rglob("*.png")) if self.folder is not None else []
        return {path.relative_to(place).with_suffix("").as_posix(): path for path in found}

    def summary(self) -> pd.DataFrame:
        """Means over seeds and their intervals, a row for each variant and length."""
        return summarise(self.results)

    def networks(
        self,
        variant: str | None = None,
        lengths: Numbers = None,
        seeds: Numbers = None,
        which: str = "best",
    ) -> "Networks":
        """Trained networks of a variant; for the arguments see `network`."""
        devices.start(self.platform)
        return self.stored.networks(self.variant(variant).name, lengths, seeds, which)

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
        self, inputs: Any, length: int, seed: int, variant: str | None = None, which: str = "best"
    ) -> "jax.Array":
        """The hidden states `[batch, time, D]` of a network over inputs `[batch, time]`."""
        import jax.numpy as jnp

        network = self.network(length, seed, variant, which)
        return network.states(jnp.asarray(inputs)).swapaxes(0, 1)

    def evaluate(
        self,
        data: str | Path | None = None,
        variant: str | None = None,
        lengths: Numbers = None,
        seeds: Numbers = None,
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

        def scores(networks: "Networks") -> dict[str, Any]:
            found = networks.scores(None if data is None else Path(data))
            return {"test_accuracy": found.accuracy, "test_loss": found.loss}

        return self._table(scores, variant, lengths, seeds, which)

    def predict(
        self,
        tokens: str | Iterable[int],
        variant: str | None = None,
        lengths: Numbers = None,
        seeds: Numbers = None,
        which: str = "best",
    ) -> pd.DataFrame:
        """What its networks answer to a sequence: `answer`, `probability`, and `right` if known."""
        from srn_jax.answers import predictions

        said = tokens if isinstance(tokens, str) else [*tokens]
        return self._table(lambda own: predictions(own, said), variant, lengths, seeds, which)

    def _table(
        self,
        columns_of: "Callable[[Networks], dict[str, Any]]",
        variant: str | None,
        *chosen: Any,
    ) -> pd.DataFrame:
        tables = []
        for name in self.variants if variant is None else [variant]:
            networks = self.networks(name, *chosen)
            table = pd.DataFrame([*networks.experiments], columns=["length", "seed"])
            tables.append(table.assign(**columns_of(networks)))
            if len(self.variants) > 1:
                tables[-1].insert(0, "variant", name)
        return pd.concat(tables, ignore_index=True)

    def explain(
        self,
        folder: str | Path | None = None,
        *,
        variant: str | None = None,
        lengths: Numbers = None,
        threshold: float = 0.5,
        look: Look = DEFAULT_LOOK,
        report: Callable[[int, int], Any] | None = None,
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

        if not self.stored.info.get("finished", True):
            raise UserError(f"{self.folder} is not finished, resume it first")
        found, question = {}, ""
        chosen = None if lengths is None else [*lengths]
        for name in self.variants if variant is None else [variant]:
            recorded = self.variant(name)
            left_out = np.asarray(recorded.results.diverged | recorded.results.test_accuracy.isna())
            if left_out.all():
                continue
            stages = {which: self.stored.networks(name, which=which) for which in ("best", "last")}
            config, question = stages["best"].config, recorded.facts.question
            trained = {which: networks.parameters for which, networks in stages.items()}
            with own_mistakes(config.experiment.cell, config.experiment.task):
                found[name] = explain_variant(
                    config, trained, left_out, self.stored.files, threshold, chosen, report
                )
        if not found:
            raise UserError("no network of the run is trained, so there is nothing to explain")
        place = Path(folder) if folder is not None else self.folder and self.folder / "explanation"
        if place:
            write_explanation(found, place, look, question)
        return found

    def gates(
        self, tokens: str | Iterable[int], seed: int | None = None, variant: str | None = None
    ) -> Gates:
        """What the gates of the network of a sequence's length do along it.

        Raises:
            UserError: for a sequence, length or seed that cannot be, or a cell without gates.
        """
        from srn_jax.answers import gates

        return gates(self.networks(variant), tokens, seed)

    def report(
        self,
        folder: str | Path | None = None,
        look: Look = DEFAULT_LOOK,
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
        record, place = self.stored.record, self.folder
        if variant is not None:
            record, place = replace(record, variants=(self.variant(variant),)), None
        place = place if folder is None else path_from("folder", folder)
        if place is None:
            raise UserError("give a `folder` for the report")
        ours = self.folder is not None and place.resolve() == self.folder.resolve()
        found = {}  # the gates of figure 6.13, of variants that have such
        for one in record.variants:
            gated = one.settings["cell"] not in ("srn", "residual-srn")
            if gated and (one.results.length == len(TEXTBOOK_SEQUENCE)).any():
                with suppress(UserError):  # a cell, a task or a network that has none to show
                    found[one.name] = self.gates(TEXTBOOK_SEQUENCE, None, one.name)
        with drawing_in(place, others=variant is not None or not ours):
            return pages.write_report(record, place, look, phases, found)

    def save(self, folder: str | Path) -> "Run":
        """Write a run that is in memory to a folder, with its report; returns the run there."""
        self.stored.save(path_from("folder", folder))
        saved = Run(replace(self.stored, folder=Path(folder)), self.platform)
        saved.report()
        return saved

    def variant(self, name: str | None = None) -> "Variant":
        """What is recorded of a variant; raises `UserError` for None where there are several."""
        if name is None and len(self.variants) == 1:
            name = self.variants[0]
        if name not in self.variants:
            got = "give one of them" if name is None else f"got {shown(name)}"
            raise UserError(f"`variant`: the run has {', '.join(self.variants)}, {got}")
        return self.stored.record.variants[self.variants.index(name)]

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else f"in {self.folder}"
        finished = self.stored.info.get("finished", True)
        ended = "" if finished else " (not finished, as of its newest checkpoints)"
        return f"{pages.closing_text(self.stored.record)}\n\n{where}{ended}"
