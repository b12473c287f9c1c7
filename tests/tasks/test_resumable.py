"""Results survive kills, are written once, and can be asked for again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.tasks.resumable import ResumableResults, Row


def open_store(folder: Path, **identity: object) -> ResumableResults:
    return ResumableResults(
        folder / "answers.jsonl.parts",
        final=folder / "answers.jsonl",
        identity=identity,
        key="--output",
        run="call",
    )


def failed(row: Row) -> bool:
    return row["error"] is not None


def row(number: int, error: str | None = None) -> Row:
    return {"id": number, "error": error}


def test_results_stand_in_the_order_of_their_numbers_each_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add({2: [row(2)], 0: [row(0)]})
    store.add({1: [row(1)]})
    assert store.collect() == [row(0), row(1), row(2)]
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [0, 1, 2]


@pytest.mark.parametrize("torn", [b'{"chunk": 1, "pred', b"\xf0\x9f", b"\0\0\0"])
def test_half_a_line_is_mended(tmp_path: Path, torn: bytes) -> None:
    store = open_store(tmp_path)
    store.add({0: [row(0)]})
    part = tmp_path / "answers.jsonl.parts" / "parts" / "rank0.jsonl"
    part.write_bytes(part.read_bytes() + torn)
    again = open_store(tmp_path)
    assert again.finished() == {0}
    again.add({1: [row(1)]})
    assert again.collect() == [row(0), row(1)]


@pytest.mark.parametrize(
    "line",
    ["3", "null", '"chunk"', "[" * 100_000, '{"chunk": 1}', '{"chunk": "1", "predictions": []}',
     '{"chunk": 1, "predictions": 3}', '{"chunk": 1, "predictions": [3]}'],
    ids=range(8),
)  # fmt: skip
def test_a_line_that_holds_no_results_is_passed_over(tmp_path: Path, line: str) -> None:
    store = open_store(tmp_path)
    store.add({0: [row(0)]})
    part = tmp_path / "answers.jsonl.parts" / "parts" / "rank0.jsonl"
    part.write_text(f"{line}\n{part.read_text()}")
    again = open_store(tmp_path)
    assert again.finished() == {0}
    again.add({1: [row(1)]})
    assert again.collect() == [row(0), row(1)]


def test_a_line_that_lacks_its_end_alone_counts(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add({0: [row(0)]})
    part = tmp_path / "answers.jsonl.parts" / "parts" / "rank0.jsonl"
    part.write_bytes(part.read_bytes().rstrip(b"\n"))
    again = open_store(tmp_path)
    again.add({1: [row(1)]})
    assert again.collect() == [row(0), row(1)]


def test_another_identity_is_refused_with_the_difference(tmp_path: Path) -> None:
    open_store(tmp_path, questions="abc").add({0: [row(0)]})
    with pytest.raises(ConfigError, match="--output: .* another call .*questions: 'abc' there"):
        open_store(tmp_path, questions="xyz")


@pytest.mark.parametrize("content", [b"", b"{", b"3", b"\xff", b"[" * 100_000])
def test_a_damaged_identity_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    open_store(tmp_path, questions="abc").add({0: [row(0)]})
    (tmp_path / "answers.jsonl.parts" / "identity.json").write_bytes(content)
    with pytest.raises(ConfigError, match="identity.json is damaged .*; choose another --output"):
        open_store(tmp_path, questions="abc")


def test_errors_are_taken_back_from_a_finished_file(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add({0: [row(0)], 1: [row(1, "broken")], 2: [row(2)]})
    store.collect()
    again = open_store(tmp_path)
    assert again.take_back(failed) == 1
    assert not again.is_complete()
    assert again.finished() == {0, 2}
    again.add({1: [row(1)]})
    assert again.collect() == [row(0), row(1), row(2)]


def test_errors_are_taken_back_from_the_parts_of_an_unfinished_run(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add({0: [row(0)], 1: [row(1, "broken")]})
    assert open_store(tmp_path).take_back(failed) == 1
    assert open_store(tmp_path).finished() == {0}


def test_without_errors_nothing_is_taken_back(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add({0: [row(0)]})
    store.collect()
    assert store.take_back(failed) == 0
    assert store.is_complete()


def test_a_disk_that_takes_no_more_is_told_with_what_to_do(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add({0: [row(0)]})
    part = tmp_path / "answers.jsonl.parts" / "parts" / "rank0.jsonl"
    kept = part.read_bytes()
    part.unlink()
    # Every write to it ends with "No space left on device".
    part.symlink_to("/dev/full")
    with pytest.raises(VideoLlamaError, match="No space left on device; make room"):
        store.add({1: [row(1)]})
    part.unlink()
    part.write_bytes(kept)
    store.add({1: [row(1)]})
    assert store.collect() == [row(0), row(1)]
