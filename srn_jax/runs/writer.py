"""Saves checkpoints while training goes on."""

import threading
import time
from pathlib import Path
from typing import Any

from srn_jax.runs.checkpoint import CHECKPOINTS_FOLDER, Layout, check_room, first_line, write


class Writer:
    """Saves checkpoints of a part in the background; keeps the newest `KEEP`.

    Every method raises `OSError` if a save, this one or the one before, went wrong.
    """

    def __init__(self, folder: Path, settings: str, layout: Layout):
        place = folder / CHECKPOINTS_FOLDER
        place.mkdir(parents=True, exist_ok=True)
        check_room(place, layout)  # rather now than after the first half minute
        self.folder, self.settings = folder, settings
        self.cost = 0.0  # seconds from the start of gathering the last saved state to its end
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, block: int, items: dict[str, Any], began: float) -> None:
        """Start saving; `began` is the time (`time.monotonic`) at which gathering began."""
        self.close()
        # A daemon does not keep the process from ending, whatever the disk does.
        self._thread = threading.Thread(target=self._save, args=(block, items, began), daemon=True)
        self._thread.start()

    def _save(self, block: int, items: dict[str, Any], began: float) -> None:
        try:
            write(self.folder, block, items, self.settings)
        except Exception as error:
            self._error = error
        self.cost = time.monotonic() - began

    def saving(self) -> bool:
        """Whether a save is still under way."""
        if self._thread is not None and not self._thread.is_alive():
            self.close()
        return self._thread is not None

    def close(self) -> None:
        """Wait for the last save."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is None:
            return
        if not isinstance(error, OSError):
            raise error
        reason = error.strerror or first_line(error.__cause__ or error)
        failed = OSError(
            f"no checkpoint could be written to {self.folder / CHECKPOINTS_FOLDER}: {reason}; "
            "those before it are kept, and the same command goes on from there"
        )
        failed.errno = error.errno
        raise failed from error
