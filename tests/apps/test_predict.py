"""`video-llama predict`: every row answered as a chat would, once, or named with its error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dying_predict import predict_and_die
from pages import blocks
from parrot import VIDEO, Parrot
from promises.launch import LIMIT_S, finish, start_ranks

from video_llama.apps import loading
from video_llama.apps.main import main
from video_llama.conversation.chat import Chat
from video_llama.datasets.question_rows import read_questions
from video_llama.processors.uploads import ReadUpload, UploadReader, UploadRequest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BOUNCE, SILENT = str(EXAMPLES / "toy_bounce.mp4"), str(EXAMPLES / "toy_silent.mp4")
PICTURE, SOUND = str(EXAMPLES / "toy_picture.jpg"), str(EXAMPLES / "toy_sound.wav")
ROWS: list[dict[str, Any]] = [
    {"id": "a", "question": "Which colour does the circle have?", "video": BOUNCE},
    {"id": "b", "question": "When does it turn back?", "media": BOUNCE},
    {"question": "What do you hear?", "audio": SOUND},
    {"question": "How does it move?", "video": SILENT, "start": 0.5},
    {"question": "Which shape is it?", "image": PICTURE},
    {"question": "Which shape is it?", "media": [PICTURE, SOUND]},
    {"question": "What do you hear?", "video": BOUNCE, "sound": False},
    {"question": "Hello?"},
    {
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "<video>Which shape is it?"},
            {"role": "assistant", "content": "circle"},
            {"role": "user", "content": "And the colour?"},
        ],
        "video": SILENT,
    },
]


@pytest.fixture(scope="module")
def toy() -> Chat:
    """The model that comes with the package, loaded once."""
    return loading.load_chat("eval_configs/toy/shipped.yaml", device="cpu")


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def predict(
    monkeypatch: pytest.MonkeyPatch, chat: Chat | None, source: Path, *flags: str
) -> tuple[int, list[dict[str, Any]]]:
    """Run the verb with a model that is loaded, None where none may be."""

    def load(*_args: object, **_flags: object) -> Chat:
        assert chat is not None, "a model was loaded"
        return chat.another()

    monkeypatch.setattr(loading, "load_chat", load)
    output = source.parent / "answers.jsonl"
    words = ["--input", str(source), "--output", str(output), "--device", "cpu", *flags]
    code = main(["predict", *words])
    lines = output.read_text().splitlines() if output.exists() else []
    return code, [json.loads(line) for line in lines]


def as_typed(chat: Chat, row: dict[str, Any]) -> str:
    """Ask a row as a person would."""
    files = [value for key in ("video", "image", "audio", "media") for value in [row.get(key)]]
    paths = [p for value in files if value for p in (value if isinstance(value, list) else [value])]
    uploads = [
        chat.upload(path, start_s=row.get("start"), sound=row.get("sound", True)) for path in paths
    ]
    if "question" in row:
        return chat.ask(row["question"])
    chat.set_system("Answer in one word.")
    chat.remember([*uploads, "Which shape is it?"], "circle")
    return chat.ask("And the colour?")


def test_answers_are_those_of_a_chat_in_the_order_of_the_questions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy: Chat
) -> None:
    code, answers = predict(monkeypatch, toy, write(tmp_path, ROWS), "--batch-size", "3")
    assert code == 0
    assert [answer["id"] for answer in answers] == ["a", "b", 3, 4, 5, 6, 7, 8, 9]
    typed = [as_typed(toy.another(), row) for row in ROWS]
    assert [answer["answer"] for answer in answers] == typed
    assert len(set(typed)) > 3
    assert [item["kind"] for item in answers[1]["media"]] == ["video", "audio"]
    assert [item["kind"] for item in answers[6]["media"]] == ["video"]
    assert answers[3]["media"][0]["times_s"][0] >= 0.5


@pytest.mark.parametrize("temperature", ["0", "3"])
def test_the_batch_size_changes_no_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy: Chat, temperature: str
) -> None:
    source = write(tmp_path, ROWS)
    flags = ["--temperature", temperature, "--top-p", "1"]
    _, one_by_one = predict(monkeypatch, toy, source, "--batch-size", "1", *flags)
    (tmp_path / "answers.jsonl").unlink()
    (tmp_path / "answers.jsonl.parts" / "identity.json").unlink()
    _, together = predict(monkeypatch, toy, source, "--batch-size", "16", *flags)
    assert together == one_by_one


def test_a_row_of_messages_is_read_as_the_conversation_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parrot = Parrot("a boat###", branches=[VIDEO])
    predict(monkeypatch, parrot.chat(), write(tmp_path, ROWS[-1:]))
    clip = f"<Video>{'[1]' * 4}</Video>"
    assert parrot.last_prompt() == (
        f"Answer in one word.###Human: {clip} Which shape is it?###Assistant: circle"
        "###Human: And the colour?###Assistant:"
    )


def test_a_system_text_of_the_command_line_is_that_of_rows_without_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parrot = Parrot("a boat###", branches=[VIDEO])
    source = write(tmp_path, [{"question": "What?"}, ROWS[-1]])
    predict(monkeypatch, parrot.chat(), source, "--system", "Shout.")
    texts = [parrot.tokenizer.decode(heard.input_ids) for heard in parrot.heard]
    assert sorted(text.split("###")[0] for text in texts) == ["Answer in one word.", "Shout."]


def test_of_a_clip_that_is_called_audio_the_sound_alone_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sounding_clip: Path
) -> None:
    rows = [
        {"question": "What?", "audio": str(sounding_clip)},
        {"question": "What?", "video": str(sounding_clip), "audio": str(sounding_clip)},
    ]
    parrot = Parrot("a boat###")
    _, answers = predict(monkeypatch, parrot.chat(), write(tmp_path, rows))
    assert [[item["kind"] for item in answer["media"]] for answer in answers] == [
        ["audio"],
        ["video", "audio"],
    ]
    assert sorted(set(heard.slots) - {0} for heard in parrot.heard) == [{1}, {1, 2}]


def test_a_file_is_read_once_for_questions_about_it_that_stand_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sounding_clip: Path
) -> None:
    parrot = Parrot("a boat###")
    files = [str(sounding_clip), PICTURE]
    rows = [{"question": f"What is {n}?", "media": files[n % 2]} for n in range(8)]
    chat, opened = parrot.chat(), []
    read = UploadReader.read

    def note(reader: UploadReader, request: UploadRequest) -> ReadUpload:
        opened.append(request.source)
        return read(reader, request)

    monkeypatch.setattr(UploadReader, "read", note)
    code, answers = predict(monkeypatch, chat, write(tmp_path, rows), "--batch-size", "1")
    assert code == 0
    assert [answer["media"][0]["path"] for answer in answers] == files * 4
    assert sorted(opened) == sorted(files)
    assert len(parrot.encoded) == 3


def test_rows_that_cannot_be_asked_say_why_and_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    rows: list[dict[str, Any]] = [
        {"question": "What?", "video": "nowhere.mp4"},
        {"question": "What?", "video": "broken.mp4"},
        {"question": "What?", "audio": PICTURE},
        {"question": "word " * 700},
        {"question": "What?", "image": PICTURE},
    ]
    code, answers = predict(monkeypatch, Parrot("a boat###").chat(), write(tmp_path, rows))
    assert code == 3
    assert "nowhere.mp4: no such file" in answers[0]["error"]
    assert "broken.mp4" in answers[1]["error"]
    assert "the row calls it audio, its content is image" in answers[2]["error"]
    assert "there are" in answers[3]["error"]
    assert answers[4]["answer"] == "a boat"
    assert answers[4]["error"] is None
    told = capsys.readouterr()
    assert "1 of 5 questions answered" in told.out
    assert "4 have an error instead; the first: id 1:" in told.out
    assert "1 of 3 files are not there" in told.err


def test_a_finished_file_needs_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = write(tmp_path, [{"question": "What?"}])
    first = predict(monkeypatch, Parrot("a boat###").chat(), source)
    assert predict(monkeypatch, None, source) == first


def test_rows_with_an_error_are_asked_again_when_told_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sounding_clip: Path
) -> None:
    rows = [{"question": "What?"}, {"question": "What?", "media": ["late.mp4", PICTURE]}]
    source = write(tmp_path, rows)
    assert predict(monkeypatch, Parrot("first###").chat(), source)[0] == 3
    assert predict(monkeypatch, None, source)[0] == 3
    (tmp_path / "late.mp4").write_bytes(sounding_clip.read_bytes())
    code, answers = predict(monkeypatch, Parrot("second###").chat(), source, "--retry-errors")
    assert code == 0
    assert [answer["answer"] for answer in answers] == ["first", "second"]


def test_an_interrupted_run_goes_on_with_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Interrupted(Parrot):
        def answer_prompts(self, prompts: Any, **how: Any) -> list[list[int]]:
            if len(self.heard) >= 4:
                raise KeyboardInterrupt
            return super().answer_prompts(prompts, **how)

    source = write(tmp_path, [{"question": f"What is {number}?"} for number in range(9)])
    code, answers = predict(
        monkeypatch, Interrupted("first###").chat(), source, "--batch-size", "1"
    )
    assert (code, answers) == (130, [])
    parrot = Parrot("second###")
    code, answers = predict(monkeypatch, parrot.chat(), source, "--batch-size", "2")
    assert code == 0
    assert [answer["answer"] for answer in answers] == ["first"] * 4 + ["second"] * 5
    assert len(parrot.heard) == 5


@pytest.mark.parametrize("change", ["questions", "settings", "model"])
def test_another_input_or_model_does_not_fill_the_same_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture, change: str
) -> None:
    source = write(tmp_path, [{"question": "What?"}])
    predict(monkeypatch, Parrot("a boat###").chat(), source)
    flags: list[str] = []
    if change == "questions":
        write(tmp_path, [{"question": "Why?"}])
    elif change == "settings":
        flags = ["--temperature", "0.5"]
    else:
        flags = ["--options", "model.max_txt_len=60"]
    before = (tmp_path / "answers.jsonl").read_bytes()
    code, _ = predict(monkeypatch, None, source, *flags)
    assert code == 2
    name = "temperature" if change == "settings" else change
    assert f"({name}: " in capsys.readouterr().err
    assert (tmp_path / "answers.jsonl").read_bytes() == before


def test_answers_about_other_media_do_not_fill_the_same_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(Path(PICTURE).read_bytes())
    source = write(tmp_path, [{"question": "What?", "image": "a.jpg"}])
    first, second = (["--media", str(tmp_path / name)] for name in ("first", "second"))
    assert predict(monkeypatch, Parrot("a boat###").chat(), source, *first)[0] == 0
    assert predict(monkeypatch, None, source, *second)[0] == 2
    assert f"(media: '{tmp_path}/first' there, '{tmp_path}/second' now)" in capsys.readouterr().err
    (tmp_path / "link").symlink_to("first")
    assert predict(monkeypatch, None, source, "--media", str(tmp_path / "link"))[0] == 0


def test_a_folder_from_which_no_path_starts_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = write(tmp_path, [{"question": "What?", "image": PICTURE}])
    assert predict(monkeypatch, Parrot("a boat###").chat(), source)[0] == 0
    (tmp_path / "clips").mkdir()
    assert predict(monkeypatch, None, source, "--media", str(tmp_path / "clips"))[0] == 0


DEAF = ["--options", "model.branches.audio=null"]


def test_sound_alone_for_a_model_that_cannot_hear_is_told_before_loading(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"question": "What?", "audio": SOUND}, {"question": "What?", "media": SOUND}]
    assert predict(monkeypatch, None, write(tmp_path, rows), *DEAF) == (2, [])
    said = capsys.readouterr().err
    assert f"--input: the model can use the files of none of 2 rows, the first: {SOUND}: " in said
    assert "this is audio, and the model takes image, video" in said
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_some_sound_for_a_model_that_cannot_hear_is_warned_of_and_its_rows_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files: list[dict[str, Any]] = [{"audio": SOUND}, {"media": [PICTURE, SOUND]}, {"media": BOUNCE}]
    rows = [{"question": "What?", **named} for named in (*files, {})]
    deaf = Parrot("a boat###", branches=[VIDEO]).chat()
    code, answers = predict(monkeypatch, deaf, write(tmp_path, rows), *DEAF)
    assert code == 3
    assert [answer["error"] is None for answer in answers] == [False, False, True, True]
    assert f"2 of 4 rows name files the model cannot use, the first: {SOUND}: " in (
        capsys.readouterr().err
    )


def test_a_file_of_somebody_else_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "answers.jsonl").write_text('{"mine": 1}\n')
    code, answers = predict(monkeypatch, None, write(tmp_path, [{"question": "What?"}]))
    assert (code, answers) == (2, [{"mine": 1}])
    assert "is there, and nothing beside it says" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "flags", "reason"),
    [
        ([{"question": "?", "vidoe": "a.mp4"}], [], "questions.jsonl:1: unknown key 'vidoe', did"),
        ([{"question": "?", "video": "a.mp4"}], [], "none of 1 files is there"),
        ([{"question": "?"}], ["--batch-size", "0"], "--batch-size: 0, expected 1"),
        ([{"question": "?"}], ["--media", "nowhere"], "--media: nowhere: no such folder"),
        ([{"question": "?"}], ["--top-p", "2"], "top_p is 2"),
        ([{"question": "?"}], ["--model_type", "llama_v2"], "--model_type llama_v2"),
        ([{"question": "?"}], ["--model-path", "nowhere/model"], "nowhere/model"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded_or_written(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    rows: list[dict[str, Any]],
    flags: list[str],
    reason: str,
) -> None:
    code, _ = predict(monkeypatch, None, write(tmp_path, rows), *flags)
    assert code == 2
    assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_the_page_shows_rows_that_are_read_and_answers_as_they_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    questions, answers = blocks(ROOT / "docs" / "predict.md", "json")
    (tmp_path / "page.jsonl").write_text(questions)
    assert len(read_questions(tmp_path / "page.jsonl").rows) == len(questions.splitlines())
    rows = [{"question": "What?", "image": PICTURE}, {"question": "What?", "image": "gone.jpg"}]
    _, written = predict(monkeypatch, Parrot("a boat###").chat(), write(tmp_path, rows))
    shown = [json.loads(line) for line in answers.splitlines()]
    assert [list(row) for row in shown] == [list(row) for row in written]
    assert list(shown[0]["media"][0]) == list(written[0]["media"][0])
    assert list(shown[0]["usage"]) == list(written[0]["usage"])


def words_for(folder: Path) -> list[str]:
    """Return the flags of a process of its own."""
    files = ["--input", str(folder / "questions.jsonl"), "--output", str(folder / "answers.jsonl")]
    return [*files, "--batch-size", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, toy: Chat) -> str:
    """What one process answers that nobody disturbs."""
    source = write(tmp_path_factory.mktemp("whole"), ROWS)
    with pytest.MonkeyPatch.context() as monkeypatch:
        predict(monkeypatch, toy, source, "--batch-size", "1")
    return (source.parent / "answers.jsonl").read_text()


@pytest.mark.slow
def test_a_run_killed_while_it_writes_ends_as_if_nothing_had_happened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy: Chat, whole: str
) -> None:
    source = write(tmp_path, ROWS)
    work = partial(predict_and_die, words_for(tmp_path))
    ranks = start_ranks(work, worlds=[{}], logs=tmp_path / "logs")
    assert finish(ranks) == [-signal.SIGKILL]
    part = (tmp_path / "answers.jsonl.parts" / "parts" / "rank0.jsonl").read_text()
    # Four rows were answered when it died, and the line of the last one is cut.
    assert len(part.splitlines()) == 4
    assert not part.endswith("\n")
    prompts = []
    answer_prompts = toy.model.answer_prompts
    monkeypatch.setattr(
        toy.model, "answer_prompts", lambda asked, **how: (
            prompts.extend(asked), answer_prompts(asked, **how))[1]
    )  # fmt: skip
    assert predict(monkeypatch, toy, source, "--batch-size", "1")[0] == 0
    assert (tmp_path / "answers.jsonl").read_text() == whole
    assert len(prompts) == len(ROWS) - 3


@pytest.mark.slow
def test_two_processes_answer_as_one(tmp_path: Path, whole: str) -> None:
    write(tmp_path, ROWS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ended = subprocess.run(
        [*torchrun, "-m", "video_llama.apps.main", "predict", *words_for(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / "answers.jsonl").read_text() == whole
    assert ended.stdout.count("9 of 9 questions answered") == 1
