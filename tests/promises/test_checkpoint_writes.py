"""Promise: a process killed at any byte of a checkpoint write leaves a loadable newest."""

from __future__ import annotations

import json
import signal
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from promises.cut_writes import REPORT, cut_at_bytes, cut_at_calls, save, state_of, tensors_of
from promises.launch import run_ranks
from safetensors.torch import load_file

from video_llama.runners.checkpoint import find_damage, read_state
from video_llama.runners.retention import complete_checkpoints, newest_whole

pytestmark = pytest.mark.slow
FILES = ("trainable.safetensors", "optimizer.safetensors", "state.json")
SCENES = ("next", "best again", "over a damaged one")


def step_on_disk(folder: Path) -> int:
    """The step a run would go on from, all of whose content was looked at."""
    path = newest_whole(folder)
    assert path is not None
    state = read_state(path)
    for file, tensors in zip(FILES[:2], tensors_of(state.step), strict=True):
        stored = load_file(path / file)
        assert stored.keys() == tensors.keys()
        assert all(torch.equal(stored[name], tensors[name]) for name in tensors)
    assert state in (state_of(state.step), state_of(state.step, best_step=state.step))
    return state.step


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name not in ("last", "best")]


def cases(root: Path) -> list[tuple[Path, int]]:
    """Folders in the order of the cuts, each with the exit code of its writer."""
    codes = json.loads((root / REPORT).read_text())
    return list(zip(sorted(p for p in root.iterdir() if p.is_dir()), codes, strict=True))


@pytest.fixture(scope="module", params=SCENES)
def cut_by_calls(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("calls")
    run_ranks(partial(cut_at_calls, root, request.param), worlds=[{}], logs=root.parent / "logs")
    return request.param, cases(root)


def test_a_kill_before_any_call_leaves_the_old_or_the_new_one(cut_by_calls):
    scene, found = cut_by_calls
    assert len(found) > 10
    *killed, whole = found
    assert {code for _, code in killed} == {-signal.SIGKILL}
    assert whole[1] == 0
    steps = [step_on_disk(folder) for folder, _ in found]
    assert steps[-1] == 2
    # Once the new one is there it stays.
    assert all(earlier <= later for earlier, later in pairwise(steps))
    assert set(steps) == ({2} if scene == "best again" else {1, 2})


def test_the_next_save_leaves_nothing_of_a_killed_one(cut_by_calls):
    _, found = cut_by_calls
    for folder, _ in found:
        save(folder, 3, keep_last=1)
        best = folder / "best"
        kept = {"step_0000003", *([best.resolve().name] if best.is_symlink() else [])}
        assert set(leftovers(folder)) == kept
        assert step_on_disk(folder) == 3


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    path = save(tmp_path_factory.mktemp("sizes"), 2)
    sizes = [(path / name).stat().st_size for name in FILES]
    # Each file is longer than the one before, so a limit ends the first that is longer than it.
    assert sizes == sorted(sizes)
    return sizes


def limits_of(sizes: list[int]) -> list[int]:
    """A grid over all bytes, dense around the ends of the files."""
    edges = {0, *(size + offset for size in sizes for offset in (-2, -1, 0, 1))}
    return sorted(edges | set(range(0, max(sizes), 53)))


@pytest.mark.parametrize("is_full", [False, True], ids=["killed", "disk full"])
def test_a_write_that_ends_at_any_byte_leaves_the_old_one(sizes, tmp_path, is_full):
    limits = limits_of(sizes)
    work = partial(cut_at_bytes, tmp_path / "cut", limits, is_full=is_full)
    (tmp_path / "cut").mkdir()
    run_ranks(work, worlds=[{}], logs=tmp_path / "logs")
    begun = set()
    for limit, (folder, code) in zip(limits, cases(tmp_path / "cut"), strict=True):
        is_whole = limit >= max(sizes)
        assert code == (0 if is_whole else 3 if is_full else -signal.SIGXFSZ)
        assert step_on_disk(folder) == (2 if is_whole else 1)
        partial_files = list(folder.glob(".partial_*/*"))
        assert not (partial_files and (is_full or is_whole))
        begun.add(len(partial_files))
    # Every one of the three files was the one that was cut.
    assert begun == ({0} if is_full else {0, 1, 2, 3})


def test_a_file_cut_short_later_is_noticed_at_every_length(tmp_path):
    save(tmp_path, 1)
    damaged = save(tmp_path, 2, keep_last=2)
    for name in FILES:
        content = (damaged / name).read_bytes()
        for length in range(0, len(content), 97):
            (damaged / name).write_bytes(content[:length])
            assert find_damage(damaged)
            assert step_on_disk(tmp_path) == 1
        (damaged / name).write_bytes(content)
    assert [read_state(path).step for path in complete_checkpoints(tmp_path)] == [1, 2]
