"""`video-llama data features` as a job: its size is known once its media are listed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class FeaturesJob:
    """What the frozen encoders make of the media of a run file, computed ahead.

    Attributes:
        name: what its bar is called.
        folder: where its log goes, and its report.
        file: the run file.
        options: overrides of it.
        datasets: of the run file; none for all.
        report: name of the report that the verb writes now and then.
        ok_exit_codes: also 1, media that cannot be used; a training on them counts them itself.
    """

    ok_exit_codes: ClassVar[tuple[int, ...]] = (0, 1)

    name: str
    folder: Path
    file: str
    options: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    report: str = "report.json"

    @property
    def size(self) -> int:
        """Files to read, once they are counted; one that is never there until then."""
        return int(self._read().get("num_files", 1))

    def kept(self) -> int:
        """Return all if they were finished; the cache itself knows what is left."""
        return self.size if self.done() == self.size else 0

    def done(self) -> int:
        """Return how many files are done."""
        return int(self._read().get("num_done", 0))

    def words(self, *, num_ranks: int) -> list[str]:
        """Return the command line; every process takes its share of the files."""
        del num_ranks
        only = [word for name in self.datasets for word in ("--dataset", name)]
        report = ["--report", str(self.folder / self.report)]
        words = ["data", "features", "--cfg-path", self.file, *only, *report]
        return [*words, "--options", *self.options]

    def _read(self) -> dict[str, Any]:
        path = self.folder / self.report
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
