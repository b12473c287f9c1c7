"""A process that reads damaged copies of media files and says what became of each.

    python -m promises.read_damaged FOLDER FIRST LAST

Copy `seed` is of file `seed // 8 % number of files` in FOLDER. A line is written before a copy is
read and another one after it, so that whoever listens knows the copy that ended the process.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch
from promises.damage import DAMAGES, damaged

from video_llama.common.errors import MediaError
from video_llama.common.types import AudioSpec, BranchSpec, MediaItem, Shape, VideoSpec
from video_llama.processors.media import MediaLoader, Request, probe

SHAPE = Shape(num_steps=4, num_tokens=1, width=8)
SPECS = {
    "video": BranchSpec(
        "video", ("video", "image"), VideoSpec(4, 32, (0.5,) * 3, (0.5,) * 3), SHAPE, int
    ),
    "audio": BranchSpec(
        "audio", ("audio",), AudioSpec(4, 0.25, 16000, 64, 25, -4.268, 9.138), SHAPE, int
    ),
}
KINDS = {
    ".mp4": ("video", "audio"),
    ".webm": ("video", "audio"),
    ".mkv": ("video", "audio"),
    ".ts": ("video", "audio"),
    ".gif": ("video",),
    ".wav": ("audio",),
    ".mp3": ("audio",),
    ".jpg": ("image",),
    ".png": ("image",),
}


def outcome_of(path: Path, loader: MediaLoader) -> str:
    """Read everything in a file, together and, if that is refused, one by one."""
    requests = [
        Request(MediaItem(kind, str(path)), "audio" if kind == "audio" else "video")
        for kind in KINDS[path.suffix]
    ]
    try:
        probe(path)
        check_all(loader.load_all(requests))
    except MediaError as refusal:
        check_refusal(refusal, path)
    else:
        return "decoded"
    outcomes = []
    for request in requests:
        try:
            check_all([loader.load(request.item, branch=request.branch)])
            outcomes.append("decoded")
        except MediaError as refusal:
            check_refusal(refusal, path)
            outcomes.append("refused")
    return "refused" if set(outcomes) == {"refused"} else "half decoded"


def check_all(items: list[MediaItem]) -> None:
    for item in items:
        tensor = item.mel if item.kind == "audio" else item.pixels
        assert tensor is not None
        assert tensor.isfinite().all(), "a tensor is not finite"
        step = (1, 64, 25) if item.kind == "audio" else (3, 32, 32)
        assert 1 <= len(tensor) <= 4, f"{len(tensor)} steps"
        assert tensor.shape[1:] == step, f"shape {tuple(tensor.shape)}"
        assert len(item.times_s) == len(tensor), "as many times as steps"
        assert list(item.times_s) == sorted(item.times_s), f"times {item.times_s}"


def check_refusal(refusal: MediaError, path: Path) -> None:
    assert str(refusal).startswith(f"{path}: "), f"the file is not named: {refusal}"
    assert len(refusal.reason) > 10, f"no reason: {refusal}"


def main() -> None:
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    files = [(path, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]
    loader = MediaLoader(SPECS)
    for seed in range(first, last):
        path, content = files[seed // len(DAMAGES) % len(files)]
        copy, damage = damaged(content, seed=seed)
        target = folder / "copies" / f"{seed}_{damage}{path.suffix}"
        target.write_bytes(copy)
        print(json.dumps({"seed": seed, "file": target.name}), flush=True)
        start_s = time.process_time()
        try:
            outcome = outcome_of(target, loader)
        except Exception as error:  # noqa: BLE001 - which error it is, is what is asked
            outcome = f"{type(error).__name__}: {error}"
        done = {
            "outcome": outcome,
            "cpu_s": time.process_time() - start_s,
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(done), flush=True)
        target.unlink()


if __name__ == "__main__":
    main()
