"""Promise: a thousand damaged files neither crash nor hang the loader, and every one is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from made_media import tone, write_clip
from PIL import Image
from promises.launch import lines_within

pytestmark = pytest.mark.slow

NUM_FILES = 1000
LIMIT_S = 120
"""For one file, on the clock of a busy machine."""

LIMIT_CPU_S = 10
LIMIT_MEMORY_MB = 2000
"""What reading may add to a process that has torch loaded."""

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Read:
    """What became of a damaged file."""

    file: str
    outcome: str
    cpu_s: float = 0.0
    memory_mb: float = 0.0


@pytest.fixture(scope="module")
def reads(tmp_path_factory) -> list[Read]:
    folder = tmp_path_factory.mktemp("damaged")
    write_files(folder)
    (folder / "copies").mkdir()
    found: list[Read] = []
    while len(found) < NUM_FILES:
        found += read_from(len(found), folder)
    return found


def write_files(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(noise).resize((96, 48)))
    pictures = [np.ascontiguousarray(np.roll(wide, -i, axis=1)[:, :48]) for i in range(12)]
    sound = tone(duration_s=1.5)
    vp9 = ("libvpx-vp9", "libopus")
    write_clip(folder / "clip.mp4", pictures, sound=sound, gop=6)
    write_clip(folder / "clip.webm", pictures, sound=sound, codecs=vp9)
    write_clip(folder / "clip.mkv", pictures, sound=sound, gop=6)
    # Long enough for streams that set in after the header was read.
    write_clip(folder / "clip.ts", pictures * 5, sound=tone(duration_s=7.5), gop=6)
    write_clip(folder / "sound.wav", sound=sound, codecs=("", "pcm_s16le"))
    write_clip(folder / "sound.mp3", sound=sound, codecs=("", "libmp3lame"))
    frames = [Image.fromarray(picture) for picture in pictures]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:6], duration=100)
    frames[0].save(folder / "picture.jpg")
    frames[0].save(folder / "picture.png")


def read_from(first: int, folder: Path) -> list[Read]:
    """Read in a process of its own, up to the end or to the file that ends or stops it."""
    command = [sys.executable, "-X", "faulthandler", "-m", "promises.read_damaged"]
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    with subprocess.Popen(
        [*command, str(folder), str(first), str(NUM_FILES)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        found: list[Read] = []
        begun = None
        try:
            for line in lines_within(process.stdout, LIMIT_S):
                said = json.loads(line)
                if "file" in said:
                    begun = said["file"]
                else:
                    found.append(Read(begun, **said))
                    begun = None
        except TimeoutError:
            process.kill()
            return [*found, Read(begun, "hangs")]
        code = process.wait()
    if code == 0:
        return found
    assert begun is not None, f"the process ended with {code} before it read a file"
    return [*found, Read(begun, f"ends the process with {code}")]


def test_every_damaged_file_is_decoded_or_named_with_a_reason(reads):
    wrong = [read for read in reads if read.outcome not in ("decoded", "half decoded", "refused")]
    assert not wrong
    assert len({read.file for read in reads}) == NUM_FILES


def test_the_damage_is_such_that_files_of_every_format_are_decoded_and_refused(reads):
    kinds = {Path(read.file).suffix for read in reads}
    decoded, refused = (
        {Path(read.file).suffix for read in reads if read.outcome == outcome}
        for outcome in ("decoded", "refused")
    )
    assert decoded == kinds
    # MPEG-TS is made for broadcasts: something always comes through.
    assert refused >= kinds - {".ts"}
    assert Counter(read.outcome for read in reads)["refused"] > NUM_FILES // 20


def test_no_damaged_file_takes_long(reads):
    assert max(reads, key=lambda read: read.cpu_s).cpu_s < LIMIT_CPU_S


def test_no_damaged_file_takes_much_memory(reads):
    grown = [(read.memory_mb - reads[0].memory_mb, read.file) for read in reads]
    assert max(grown) < (LIMIT_MEMORY_MB,)
