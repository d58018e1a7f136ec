"""Where the seconds of a command go, by name, as run.json keeps them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

NAMES = (
    *("imports", "devices", "compiling", "drawing data", "training", "gathering", "checkpoint"),
    *("testing", "intervals", "writing", "figures"),
)


class Phases(dict[str, float]):
    """Seconds by name; what is measured twice is added up."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a block of code; an exception counts like an end."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self[name] = self.get(name, 0.0) + seconds

    def and_before(self, before: Mapping[str, float]) -> dict[str, float]:
        """These and those of earlier processes, in milliseconds and in the order of `NAMES`."""
        both = [*dict.fromkeys((*NAMES, *before, *self))]
        sums = {name: before.get(name, 0.0) + self.get(name, 0.0) for name in both}
        return {name: round(seconds, 3) for name, seconds in sums.items() if seconds}
