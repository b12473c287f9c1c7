"""The demo without a browser: flags, handlers over a parrot, who is forgotten when."""

from __future__ import annotations

import argparse
import base64
import io
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio
import numpy as np
import pytest
from parrot import VIDEO, Parrot
from PIL import Image

from video_llama.apps import demo, demo_visits
from video_llama.apps.demo_about import about
from video_llama.apps.demo_handlers import Handlers
from video_llama.apps.demo_view import Span, View
from video_llama.apps.demo_visits import CLOSED_S, IDLE_S, Visits
from video_llama.common.errors import ConfigError
from video_llama.processors.limits import UPLOAD_LIMITS, MediaLimits

ME = "a browser session"
GREEDY = (0.0, 0.9, 0, 1, 50, 1.0)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def parrot() -> Parrot:
    return Parrot("a red boat###")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def visits(parrot: Parrot, clock: Clock, tmp_path: Path) -> Visits:
    return Visits(parrot.chat(), folder=tmp_path, clock=clock)


@pytest.fixture
def handlers(visits: Visits, sounding_clip: Path) -> Handlers:
    return Handlers(visits, gradio=gradio, examples=[sounding_clip])


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(list(words))


def ask(handlers: Handlers, question: str, *, session: str = ME) -> list[View]:
    handlers.ask(session, question, GREEDY)
    return list(handlers.answer(session))


def shown_before(error: type[Exception], *, views: Iterator[View]) -> list[View]:
    """Return what is shown until an error that must come."""
    shown: list[View] = []
    with pytest.raises(error):
        shown.extend(views)
    return shown


def said(view: View) -> list[Any]:
    return [turn["content"] for turn in view.turns]


def pictures_in(html: str) -> list[Image.Image]:
    encoded = re.findall(r"base64,([^']+)'", html)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in encoded]


@pytest.fixture
def shown(handlers: Handlers, sounding_clip: Path) -> View:
    """What the page shows when a clip with sound was uploaded."""
    return handlers.start(ME, [str(sounding_clip)], Span())


# Flags


def test_the_published_flags_are_understood() -> None:
    args = flags(
        "--cfg-path", "x.yaml", "--gpu-id", "1", "--model_type", "llama_v2", "--options", "a=b"
    )
    assert (args.cfg_path, args.gpu_id, args.model_type, args.options) == (
        "x.yaml",
        1,
        "llama_v2",
        ["a=b"],
    )


def test_nothing_is_shared_kept_or_served_to_outsiders_by_default() -> None:
    args = flags()
    assert (args.share, args.host, args.votes) == (False, "127.0.0.1", None)


def test_without_arguments_the_page_is_about_the_toy_model() -> None:
    assert demo.model_name(flags()) == "toy"


def test_a_model_s_own_folder_gives_it_its_name() -> None:
    assert demo.model_name(flags("--model-path", "output/my_model")) == "my_model"
    assert demo.model_name(flags("--model-path", "DAMO-NLP-SG/a_release")) == "a_release"


def test_a_folder_has_its_name_whichever_flag_names_it_and_however(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my_model"
    folder.mkdir()
    assert demo.model_name(flags("--cfg-path", str(folder))) == "my_model"
    monkeypatch.chdir(folder)
    assert demo.model_name(flags("--model-path", ".")) == "my_model"


def test_a_model_without_a_name_is_refused_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "open_chat", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        demo.main(flags("--cfg-path", "nowhere.yaml"))


def test_strangers_may_upload_what_they_may_hand_to_any_server_of_ours() -> None:
    assert demo.limits_of(flags()) == UPLOAD_LIMITS


def test_limits_of_uploads_are_what_the_flags_say() -> None:
    args = flags("--max-upload-gib", "0.5", "--max-duration-s", "60", "--max-megapixels", "2")
    assert demo.limits_of(args) == MediaLimits(
        max_duration_s=60.0, max_pixels=2_000_000, max_bytes=2**29
    )


def test_limits_that_let_nothing_through_are_named_together() -> None:
    with pytest.raises(ConfigError, match="2 problems(.|\n)*--max-duration-s: 0(.|\n)*--decode"):
        demo.limits_of(flags("--max-duration-s", "0", "--decode-timeout-s", "-1"))


# Uploading


def test_an_upload_joins_the_conversation_and_lets_one_ask(
    shown: View, sounding_clip: Path
) -> None:
    assert said(shown) == [{"path": str(sounding_clip)}]
    assert shown.is_ready
    assert not shown.can_go_back


def test_the_frames_shown_are_those_the_model_sees(shown: View) -> None:
    # Frame i of the clip is grey of value 20 * i; frames 0, 2, 4 and 6 are taken, at 8 a second.
    assert shown.saw is not None
    values = [float(np.asarray(picture).mean()) for picture in pictures_in(shown.saw)[:4]]
    assert values == pytest.approx([0, 40, 80, 120], abs=4)
    frames = shown.saw.split("class='strip mels'")[0]
    captions = re.findall("<figcaption>(.*?)</figcaption>", frames)
    assert captions == ["0.00 s", "0.25 s", "0.50 s", "0.75 s"]


def test_the_tone_of_a_clip_is_a_bright_line_in_its_mel_pictures(shown: View) -> None:
    assert shown.saw is not None
    mels = pictures_in(shown.saw)[4:]
    assert len(mels) == 2
    # 440 Hz lies in bin 3 of 16 on Kaldi's mel scale from 20 to 8000 Hz, counted from below.
    mel = 1127 * np.log(1 + np.array([20, 440, 8000]) / 700)
    expected = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 17 - 1
    brightest = np.asarray(mels[0]).sum(axis=(1, 2)).argmax()
    assert 15 - brightest == pytest.approx(expected, abs=1)


def test_the_name_of_a_file_cannot_smuggle_html_into_the_page(
    handlers: Handlers, tmp_path: Path, sounding_clip: Path
) -> None:
    path = tmp_path / "<img src=x>.mp4"
    path.write_bytes(sounding_clip.read_bytes())
    saw = handlers.start(ME, [str(path)], Span()).saw
    assert saw is not None
    assert "<img src=x>" not in saw
    assert "&lt;img src=x&gt;.mp4" in saw


def test_part_of_a_clip_frames_and_silence_can_be_asked_for(
    handlers: Handlers, sounding_clip: Path
) -> None:
    span = Span(start_s=0.5, end_s=1.0, frames=2, sound=False)
    saw = handlers.start(ME, [str(sounding_clip)], span).saw
    assert saw is not None
    assert re.findall("<figcaption>(.*?)</figcaption>", saw) == ["0.50 s", "0.75 s"]


def test_what_was_left_out_of_a_file_is_said_on_the_page(
    sounding_clip: Path, tmp_path: Path
) -> None:
    deaf = Visits(Parrot("", branches=[VIDEO]).chat(), folder=tmp_path)
    handlers = Handlers(deaf, gradio=gradio, examples=[sounding_clip])
    note = handlers.start(ME, [str(sounding_clip)], Span()).turns[-1]
    assert "no branch for audio" in note["content"]
    assert note["metadata"] == {"title": "Note"}


def test_several_files_belong_to_one_question(
    handlers: Handlers, parrot: Parrot, sounding_clip: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    handlers.start(ME, [{"path": str(sounding_clip)}, {"path": str(picture)}, None], Span())
    ask(handlers, "What?")
    assert parrot.last_prompt().count("</Image>") == 1
    assert parrot.last_prompt().count("</Audio>") == 1


@pytest.mark.parametrize("files", [[], [None, None], [""]])
def test_starting_without_a_file_is_explained(handlers: Handlers, files: list[Any]) -> None:
    with pytest.raises(gradio.Error, match="Choose a video"):
        handlers.start(ME, files, Span())


def test_a_file_that_is_no_media_is_named_without_its_folder(
    handlers: Handlers, tmp_path: Path
) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a clip")
    with pytest.raises(gradio.Error) as caught:
        handlers.start(ME, [str(path)], Span())
    assert "notes.mp4" in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_a_bad_file_does_not_keep_a_good_one_out(
    handlers: Handlers, tmp_path: Path, sounding_clip: Path
) -> None:
    bad = tmp_path / "notes.mp4"
    bad.write_text("not a clip")
    view = handlers.start(ME, [str(bad), str(sounding_clip)], Span())
    assert said(view) == [{"path": str(sounding_clip)}]


# Asking


def test_an_answer_grows_on_the_page(handlers: Handlers, shown: View) -> None:
    views = ask(handlers, "What?")
    states = [said(view)[-1] for view in views]
    assert states[-1] == "a red boat"
    assert len(set(states)) > 2
    assert all(later.startswith(sooner) for sooner, later in zip(states, states[1:], strict=False))
    assert [view.is_busy for view in views] == [True] * (len(views) - 1) + [False]


def test_how_an_answer_went_is_told(handlers: Handlers, parrot: Parrot, shown: View) -> None:
    status = ask(handlers, "What?")[-1].status
    num_tokens = len(parrot.tokenizer.encode_run(parrot.says).ids)
    assert status is not None
    assert status.startswith(f"{num_tokens} tokens in ")
    assert f"prompt of {len(parrot.heard[-1].input_ids)} tokens" in status


def test_the_page_s_settings_reach_the_model(
    handlers: Handlers, parrot: Parrot, shown: View
) -> None:
    handlers.ask(ME, "What?", (0.5, 0.8, 7, 1, 20, 1.3))
    list(handlers.answer(ME))
    used = parrot.heard[-1].settings
    assert (used.temperature, used.top_p, used.seed) == (0.5, 0.8, 7)
    assert (used.num_beams, used.max_new_tokens, used.repetition_penalty) == (1, 20, 1.3)


def test_settings_that_exclude_each_other_are_refused_before_anything_is_asked(
    handlers: Handlers, visits: Visits, shown: View
) -> None:
    with pytest.raises(gradio.Error, match="beams are not drawn"):
        handlers.ask(ME, "What?", (0.7, 0.9, 0, 3, 50, 1.0))
    assert not visits.of(ME).is_busy


def test_an_emptied_field_means_the_default(
    handlers: Handlers, parrot: Parrot, shown: View
) -> None:
    handlers.ask(ME, "What?", (0.0, 0.9, None, 1, None, 1.0))
    list(handlers.answer(ME))
    assert (parrot.heard[-1].settings.seed, parrot.heard[-1].settings.max_new_tokens) == (0, 100)


@pytest.mark.parametrize("question", ["", "  "])
def test_an_empty_question_asks_nothing(handlers: Handlers, shown: View, question: str) -> None:
    with pytest.raises(gradio.Error, match="Type a question"):
        handlers.ask(ME, question, GREEDY)


def test_a_question_about_nothing_says_what_to_do(handlers: Handlers) -> None:
    with pytest.raises(gradio.Error, match="Upload a file first"):
        handlers.ask(ME, "What?", GREEDY)


def test_a_second_question_waits_for_the_first_answer(handlers: Handlers, shown: View) -> None:
    handlers.ask(ME, "What?", GREEDY)
    with pytest.raises(gradio.Error, match="press Stop"):
        handlers.ask(ME, "And now?", GREEDY)


def test_a_question_withdrawn_in_the_queue_is_not_answered(
    handlers: Handlers, parrot: Parrot, shown: View
) -> None:
    handlers.ask(ME, "What?", GREEDY)
    view = handlers.stop(ME)
    assert (view.question, view.is_busy) == ("What?", False)
    assert [said(view) for view in handlers.answer(ME)] == [said(shown)]
    assert parrot.heard == []


def test_stopping_keeps_what_was_said(handlers: Handlers, shown: View) -> None:
    handlers.ask(ME, "What?", GREEDY)
    answer = handlers.answer(ME)
    next(answer)
    handlers.stop(ME)
    *_, last = answer
    assert "a red boat".startswith(said(last)[-1])
    assert said(last)[-1] != "a red boat"
    assert last.status is not None
    assert ", stopped" in last.status


def test_an_error_gives_the_question_back(handlers: Handlers, shown: View) -> None:
    handlers.ask(ME, "What?", (0.0, 0.9, 0, 1, 5000, 1.0))
    answer = handlers.answer(ME)
    view = next(answer)
    assert (view.question, view.can_go_back, view.is_ready) == ("What?", False, True)
    with pytest.raises(gradio.Error, match="max_new_tokens is 5000"):
        next(answer)


def test_an_answer_that_crashes_is_taken_back_on_the_page_too(
    handlers: Handlers, parrot: Parrot, shown: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(**prompt: Any) -> Iterator[int]:
        yield from parrot.tokenizer.encode_run("a red").ids
        raise RuntimeError("the GPU is gone")

    ask(handlers, "What?")
    monkeypatch.setattr(parrot, "stream_prompt", crash)
    handlers.ask(ME, "Where?", GREEDY)
    *_, last = shown_before(RuntimeError, views=handlers.answer(ME))
    assert said(last)[1:] == ["What?", "a red boat"]
    assert (last.question, last.is_busy) == ("Where?", False)
    monkeypatch.undo()
    assert said(handlers.undo(ME)) == said(shown)


def test_an_answer_can_be_given_again(handlers: Handlers, parrot: Parrot, shown: View) -> None:
    ask(handlers, "What?")
    parrot.says = "a green boat###"
    handlers.ask_again(ME, GREEDY)
    *_, last = handlers.answer(ME)
    assert said(last)[1:] == ["What?", "a green boat"]
    assert "red" not in parrot.last_prompt()


def test_an_answer_that_cannot_be_given_again_stays(handlers: Handlers, shown: View) -> None:
    ask(handlers, "What?")
    handlers.ask_again(ME, (0.0, 0.9, 0, 1, 5000, 1.0))
    view = next(handlers.answer(ME))
    assert said(view)[1:] == ["What?", "a red boat"]


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for another thread."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def waiting(
    handlers: Handlers, visits: Visits, shown: View
) -> Iterator[tuple[threading.Thread, list[View | Exception]]]:
    """A thread that asks for another answer and waits behind somebody else, and its views."""
    ask(handlers, "What?")
    views: list[View | Exception] = []

    def answer() -> None:
        try:
            views.extend(handlers.answer(ME))
        except Exception as error:
            views.append(error)
            raise

    with visits.of("another").chat.turn():
        handlers.ask_again(ME, GREEDY)
        thread = threading.Thread(target=answer)
        thread.start()
        wait_until(lambda: bool(visits.of(ME).chat.position))
        yield thread, views


def test_another_answer_that_is_stopped_in_the_line_leaves_the_old_one(
    handlers: Handlers, waiting: tuple[threading.Thread, list[Any]]
) -> None:
    thread, views = waiting
    handlers.stop(ME)
    thread.join(60)
    assert said(views[-1])[1:] == ["What?", "a red boat"]


def test_another_answer_whose_conversation_is_cleared_in_the_line_ends_quietly(
    handlers: Handlers, waiting: tuple[threading.Thread, list[Any]]
) -> None:
    thread, views = waiting
    handlers.clear(ME)
    thread.join(60)
    assert not thread.is_alive()
    assert [view.turns for view in views] == [[]]


def test_undoing_gives_question_and_file_back(
    handlers: Handlers, parrot: Parrot, shown: View
) -> None:
    ask(handlers, "What?")
    view = handlers.undo(ME)
    assert (view.question, said(view)) == ("What?", said(shown))
    ask(handlers, "Again?")
    assert "What?" not in parrot.last_prompt()
    assert "</Video>" in parrot.last_prompt()


def test_turns_forgotten_for_room_are_told(
    parrot: Parrot, tmp_path: Path, sounding_clip: Path
) -> None:
    parrot.max_context = 140
    visits = Visits(parrot.chat(), folder=tmp_path)
    handlers = Handlers(visits, gradio=gradio, examples=[sounding_clip])
    handlers.start(ME, [str(sounding_clip)], Span())
    for _ in range(3):
        *_, last = ask(handlers, "What is to be seen in this little clip of ours?")
    assert "forgotten" in said(last)[-1]


def test_visitors_do_not_share_a_conversation(
    handlers: Handlers, parrot: Parrot, sounding_clip: Path, shown: View
) -> None:
    handlers.start("another", [str(sounding_clip)], Span())
    ask(handlers, "What?")
    ask(handlers, "Where?", session="another")
    assert "What?" not in parrot.last_prompt()


# Forgetting


@pytest.fixture
def uploaded(tmp_path: Path, sounding_clip: Path) -> Path:
    """A clip where Gradio puts uploads: in a folder of its own."""
    path = tmp_path / "0123abcd" / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(sounding_clip.read_bytes())
    return path


def test_clearing_forgets_the_conversation_and_deletes_its_files(
    handlers: Handlers, visits: Visits, uploaded: Path
) -> None:
    handlers.start(ME, [str(uploaded)], Span())
    chat = visits.of(ME).chat
    ask(handlers, "What?")
    view = handlers.clear(ME)
    assert (view.turns, view.saw, view.is_ready) == ([], "", False)
    assert chat.history == ()
    assert not uploaded.parent.exists()


def test_an_answer_to_a_cleared_conversation_is_not_shown(handlers: Handlers, shown: View) -> None:
    handlers.ask(ME, "What?", GREEDY)
    answer = handlers.answer(ME)
    next(answer)
    handlers.clear(ME)
    assert [view.turns for view in answer] == [[]]


def test_an_answer_to_somebody_who_was_forgotten_opens_no_visit(
    handlers: Handlers, visits: Visits, shown: View
) -> None:
    handlers.ask(ME, "What?", GREEDY)
    answer = handlers.answer(ME)
    next(answer)
    visits.forget(ME)
    assert [(view.turns, view.is_ready) for view in answer] == [([], False)]
    assert len(visits) == 0


def test_a_file_that_two_visitors_uploaded_stays_for_the_other(
    handlers: Handlers, uploaded: Path
) -> None:
    handlers.start(ME, [str(uploaded)], Span())
    handlers.hold("another", {"path": str(uploaded)})
    handlers.clear(ME)
    assert uploaded.exists()
    handlers.clear("another")
    assert not uploaded.exists()


def test_files_that_were_not_uploaded_are_never_deleted(
    handlers: Handlers, shown: View, sounding_clip: Path
) -> None:
    handlers.clear(ME)
    assert sounding_clip.exists()


def test_a_visitor_who_names_a_folder_as_a_file_deletes_nothing(
    handlers: Handlers, tmp_path: Path, uploaded: Path
) -> None:
    for folder in (tmp_path, uploaded.parent, tmp_path.parent):
        handlers.hold(ME, {"path": str(folder)})
        with pytest.raises(gradio.Error, match="not here any more"):
            handlers.start(ME, [{"path": str(folder)}], Span())
    handlers.clear(ME)
    assert uploaded.exists()


def test_files_of_the_server_are_neither_shown_nor_known_of(
    handlers: Handlers, parrot: Parrot, tmp_path: Path, sounding_clip: Path, uploaded: Path
) -> None:
    elsewhere = tmp_path.parent / f"{tmp_path.name}-private"
    elsewhere.mkdir()
    secret = elsewhere / "clip.mp4"
    secret.write_bytes(sounding_clip.read_bytes())
    link = uploaded.parent / "link" / "clip.mp4"
    link.parent.mkdir()
    link.symlink_to(secret)
    around = tmp_path / ".." / elsewhere.name / "clip.mp4"
    answers = set()
    for path in (secret, around, link, elsewhere / "nowhere" / "clip.mp4"):
        for handed in (str(path), {"path": str(path)}):
            with pytest.raises(gradio.Error) as caught:
                handlers.start(ME, [handed], Span())
            answers.add(caught.value.message)
    assert answers == {"clip.mp4: is not here any more; choose it again"}
    assert handlers.start(ME, [str(uploaded)], Span()).is_ready


@pytest.mark.parametrize("path", ["a\0b.mp4", "a" * 5000, 7, {"path": ["x"]}, ["x"]])
def test_what_is_no_path_at_all_is_no_file(handlers: Handlers, path: Any) -> None:
    handlers.hold(ME, {"path": path})
    with pytest.raises(gradio.Error, match="not here any more|Choose a video"):
        handlers.start(ME, [{"path": path}], Span())


def test_a_file_that_is_gone_is_asked_for_again(handlers: Handlers, uploaded: Path) -> None:
    uploaded.unlink()
    with pytest.raises(gradio.Error, match="clip.mp4: is not here any more; choose it again"):
        handlers.start(ME, [str(uploaded)], Span())


@pytest.mark.parametrize("gone", ["the file", "its folder"])
def test_uploads_that_somebody_else_deleted_do_not_save_the_others(
    handlers: Handlers, visits: Visits, uploaded: Path, gone: str
) -> None:
    others = []
    for name in "ab":
        others.append(uploaded.parent.with_name(name) / "clip.mp4")
        shutil.copytree(uploaded.parent, others[-1].parent)
        handlers.hold(ME, str(others[-1]))
    handlers.start(ME, [str(uploaded)], Span())
    if gone == "the file":
        uploaded.unlink()
    else:
        shutil.rmtree(uploaded.parent)
    visits.forget(ME)
    assert not any(path.parent.exists() for path in (uploaded, *others))


def test_a_file_that_cannot_be_deleted_is_told_and_the_others_go(
    handlers: Handlers,
    visits: Visits,
    uploaded: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = uploaded.parent.with_name("b") / "clip.mp4"
    shutil.copytree(uploaded.parent, other.parent)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == uploaded:
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    for path in (uploaded, other):
        handlers.hold(ME, str(path))
    visits.forget(ME)
    assert uploaded.exists()
    assert not other.parent.exists()
    assert f"{uploaded} stays: it cannot be deleted (Permission denied)" in caplog.text


def test_a_visit_that_cannot_be_forgotten_does_not_end_the_sweeping(
    parrot: Parrot, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_visits, "SWEEP_S", 0.01)
    with Visits(parrot.chat(), folder=tmp_path, clock=clock) as visits:

        def fail() -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(visits.of(ME).chat, "reset", fail)
        clock.now = IDLE_S
        wait_until(lambda: ME not in visits)
        visits.of("another")
        clock.now = 2 * IDLE_S
        wait_until(lambda: "another" not in visits)


def test_nobody_begins_to_hold_a_file_while_it_is_being_deleted(
    handlers: Handlers, visits: Visits, uploaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers.hold(ME, str(uploaded))
    held = threading.Thread(target=handlers.hold, args=("another", str(uploaded)))
    unlink = Path.unlink

    def slowly(path: Path, missing_ok: bool = False) -> None:
        held.start()
        held.join(0.3)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", slowly)
    visits.forget(ME)
    held.join(60)
    assert all(path.exists() for path in visits.of("another").held)


def test_a_visitor_who_does_nothing_is_forgotten(
    handlers: Handlers, visits: Visits, clock: Clock, uploaded: Path
) -> None:
    handlers.start(ME, [str(uploaded)], Span())
    clock.now = IDLE_S - 1
    visits.sweep()
    assert uploaded.exists()
    clock.now = IDLE_S
    visits.sweep()
    assert len(visits) == 0
    assert not uploaded.exists()


def test_a_closed_tab_is_forgotten_soon_unless_it_comes_back(
    handlers: Handlers, visits: Visits, clock: Clock, uploaded: Path
) -> None:
    for session in (ME, "another"):
        handlers.start(session, [str(uploaded)], Span())
        handlers.leave(session)
    handlers.hold("another", {"path": str(uploaded)})
    clock.now = CLOSED_S
    visits.sweep()
    assert len(visits) == 1
    assert visits.of("another").files


def test_leaving_ends_the_answer_on_its_way(
    handlers: Handlers, parrot: Parrot, shown: View
) -> None:
    handlers.ask(ME, "What?", GREEDY)
    answer = handlers.answer(ME)
    next(answer)
    handlers.leave(ME)
    list(answer)
    assert parrot.spoken < len(parrot.tokenizer.encode_run(parrot.says).ids)


def test_nothing_is_left_of_a_server_that_ended(parrot: Parrot, sounding_clip: Path) -> None:
    with demo.served(parrot.chat(), model="parrot") as page:
        folder = Path(page.GRADIO_CACHE)
        assert folder.is_dir()
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


# What the page says


@pytest.fixture
def components(parrot: Parrot, tmp_path: Path) -> Iterator[Any]:
    """Return a function that builds a page and gives its components by label."""

    def built(model: Parrot = parrot) -> dict[str, Any]:
        with demo.served(model.chat(), model="parrot") as page:
            named = [block for block in page.blocks.values() if getattr(block, "label", None)]
            return {block.label: block for block in named} | {"": page}

    return built


def test_the_title_names_model_and_template(components: Any) -> None:
    assert components()[""].title == "Video-LLaMA · parrot · vicuna_v0"


def test_a_model_that_cannot_hear_says_so_beside_the_switch(components: Any) -> None:
    listen = components(Parrot("", branches=[VIDEO]))["Listen to a video's sound"]
    assert (listen.interactive, listen.value) == (False, False)
    assert "no audio branch" in listen.info
    assert components()["Listen to a video's sound"].interactive


def test_the_frames_slider_stands_where_the_model_was_trained(components: Any) -> None:
    frames = components()["Frames"]
    assert (frames.value, frames.minimum, frames.maximum) == (4, 1, 32)


def test_the_page_sends_no_usage_data(components: Any) -> None:
    assert components()[""].analytics_enabled is False


def test_examples_are_files_that_are_there(parrot: Parrot) -> None:
    offered = about(parrot.chat(), model="parrot").examples
    assert {example.kind for example in offered} == {"video", "picture", "sound"}
    assert all(example.path.is_file() for example in offered)
