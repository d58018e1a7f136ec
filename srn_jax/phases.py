"""Where the seconds of a command go, by name, as run.json keeps them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Phases(dict[str, float]):
    """Seconds by name; what is measured twice is added up."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a block of code; an exception counts like an end."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self[name] = self.get(name, 0.0) + time.perf_counter() - began

    def and_before(self, before: Mapping[str, float]) -> dict[str, float]:
        """These and those of earlier processes, in milliseconds."""
        sums = {name: before.get(name, 0.0) + self.get(name, 0.0) for name in {**before, **self}}
        return {name: round(seconds, 3) for name, seconds in sums.items()}
