from __future__ import annotations

import argparse
from pathlib import Path
from unittest.mock import MagicMock

import gradio
import numpy as np
import pytest
from parrot import VIDEO, Parrot

from video_llama.apps import demo, loading
from video_llama.common.errors import ConfigError, MediaError
from video_llama.conversation.chat import Chat
from video_llama.conversation.templates import get_template


@pytest.fixture
def parrot() -> Parrot:
    return Parrot("a red boat###")


@pytest.fixture
def handlers(parrot: Parrot) -> demo.Handlers:
    return demo.Handlers(parrot.chat(), gradio=gradio)


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(list(words))


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


def test_nothing_is_shared_and_nobody_outside_is_served_by_default() -> None:
    args = flags()
    assert (args.share, args.host) == (False, "127.0.0.1")


@pytest.mark.parametrize(
    ("model_type", "template"),
    [(None, "llama_2"), ("vicuna", "vicuna_v0_released"), ("llama_v2", "llama_2_released")],
)
def test_a_family_that_agrees_is_accepted(model_type: str | None, template: str) -> None:
    demo.check_family(model_type, template=template)


def test_a_stranger_s_clip_may_not_be_longer_than_allowed(
    monkeypatch: pytest.MonkeyPatch, parrot: Parrot, sounding_clip: Path
) -> None:
    template = get_template("vicuna_v0")
    loaded = loading.LoadedModel(parrot, parrot.tokenizer, template)
    chats: list[Chat] = []
    monkeypatch.setattr(loading, "load_model", lambda config: loaded)
    monkeypatch.setattr(demo, "build_page", lambda chat: chats.append(chat) or MagicMock())
    demo.main(flags("--max-duration-s", "0.5"))
    demo.main(flags())
    with pytest.raises(MediaError, match="s long, at most 0.5 s are allowed"):
        chats[0].upload(sounding_clip)
    assert chats[1].upload(sounding_clip).items


def test_a_family_that_disagrees_with_the_checkpoint_is_refused() -> None:
    with pytest.raises(ConfigError, match="--model_type llama_v2: .*'vicuna_v0'"):
        demo.check_family("llama_v2", template="vicuna_v0")


def test_an_upload_opens_the_question_box_and_shows_frames(
    handlers: demo.Handlers, sounding_clip: Path
) -> None:
    chat, turns, frames, box = handlers.start(str(sounding_clip), None, [])
    assert turns == [{"role": "user", "content": {"path": str(sounding_clip)}}]
    assert [caption for _, caption in frames] == ["0.0 s", "0.2 s", "0.5 s", "0.8 s"]
    assert box.interactive
    assert [item.kind for message in chat.history for item in message.media] == []


def test_the_frames_shown_are_those_the_model_sees(
    handlers: demo.Handlers, sounding_clip: Path
) -> None:
    frames = handlers.start(str(sounding_clip), None, [])[2]
    # Frame i of the clip is grey of value 20 * i; frames 0, 2, 4 and 6 are taken.
    values = [float(np.asarray(picture).mean()) for picture, _ in frames]
    assert values == pytest.approx([0, 40, 80, 120], abs=4)


def test_what_was_left_out_of_a_file_is_said_on_the_page(sounding_clip: Path) -> None:
    handlers = demo.Handlers(Parrot("", branches=[VIDEO]).chat(), gradio=gradio)
    turns = handlers.start(str(sounding_clip), None, [])[1]
    assert "no branch for audio" in turns[-1]["content"]


def test_an_answer_grows_on_the_page(handlers: demo.Handlers, sounding_clip: Path) -> None:
    chat, turns, *_ = handlers.start(str(sounding_clip), None, [])
    _, turns = handlers.ask("What?", turns)
    states = [shown[-1]["content"] for shown in handlers.answer(turns, chat, 0.0, 50)]
    assert states[-1] == "a red boat"
    assert len(states) > 2
    assert all(later.startswith(sooner) for sooner, later in zip(states, states[1:], strict=False))


@pytest.mark.parametrize(("temperature", "num_beams"), [(0.0, 3), (0.7, 1)])
def test_beams_are_followed_at_temperature_zero(
    handlers: demo.Handlers,
    parrot: Parrot,
    sounding_clip: Path,
    temperature: float,
    num_beams: int,
) -> None:
    chat, turns, *_ = handlers.start(str(sounding_clip), None, [])
    list(handlers.answer([*turns, {"role": "user", "content": "What?"}], chat, temperature, 50, 3))
    assert parrot.heard[-1].settings.num_beams == num_beams


def test_a_question_in_gradios_list_form_is_understood(
    handlers: demo.Handlers, parrot: Parrot, sounding_clip: Path
) -> None:
    chat, turns, *_ = handlers.start(str(sounding_clip), None, [])
    turns = [*turns, {"role": "user", "content": [{"type": "text", "text": "What?"}]}]
    list(handlers.answer(turns, chat, 0.0, 50))
    assert parrot.last_prompt().endswith("</Audio> What?###Assistant:")


def test_visitors_do_not_share_a_conversation(handlers: demo.Handlers, sounding_clip: Path) -> None:
    first = handlers.start(str(sounding_clip), None, [])[0]
    second = handlers.start(str(sounding_clip), None, [])[0]
    first.ask("What?")
    assert second.history == ()


@pytest.mark.parametrize("file", [None, ""])
def test_starting_without_a_file_is_explained(handlers: demo.Handlers, file: str | None) -> None:
    with pytest.raises(gradio.Error, match="Choose a video"):
        handlers.start(file, None, [])


def test_a_file_that_is_no_media_is_named_without_its_folder(
    handlers: demo.Handlers, tmp_path: Path
) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a clip")
    with pytest.raises(gradio.Error) as caught:
        handlers.start(str(path), None, [])
    assert "notes.mp4" in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_an_empty_question_asks_nothing(handlers: demo.Handlers) -> None:
    with pytest.raises(gradio.Error, match="Type a question"):
        handlers.ask("  ", [])


def test_clearing_forgets_the_conversation(handlers: demo.Handlers, sounding_clip: Path) -> None:
    chat, turns, *_ = handlers.start(str(sounding_clip), None, [])
    list(handlers.answer([*turns, {"role": "user", "content": "What?"}], chat, 0.0, 50))
    handlers.clear(chat)
    assert chat.history == ()


def test_the_page_sends_no_usage_data(parrot: Parrot) -> None:
    assert demo.build_page(parrot.chat()).analytics_enabled is False


@pytest.mark.slow
def test_the_page_answers_over_its_api(parrot: Parrot, sounding_clip: Path) -> None:
    from gradio_client import Client, handle_file

    page = demo.build_page(parrot.chat())
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        client = Client(url, verbose=False, download_files=False, httpx_kwargs={"timeout": 120})
        turns, *_ = client.predict(handle_file(str(sounding_clip)), [], api_name="/start")
        _, turns = client.predict("What?", turns, api_name="/ask")
        shown = client.predict(turns, 0, 50, api_name="/answer")
    finally:
        page.close()
    assert demo.text_of(shown[-1]["content"]) == "a red boat"
