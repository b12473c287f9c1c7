"""What a client asks of `serve`, checked before anything is decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.apps.serve_errors import ApiError, told, without_folders
from video_llama.apps.serve_parts import Medium, Sampling
from video_llama.apps.serve_request import ChatRequest, Round, parse_request
from video_llama.apps.serve_service import parse_json
from video_llama.common.errors import ContextOverflow, MediaError
from video_llama.common.generation import GenerationSettings

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def body(*messages: Any, **more: Any) -> dict[str, Any]:
    asked = list(messages) or [{"role": "user", "content": "What is it?"}]
    return {"model": "tiny", "messages": asked, **more}


def refused(*messages: Any, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_request(body(*messages, **more)).settings(GenerationSettings())
    return caught.value


def settings(**more: Any) -> GenerationSettings:
    return parse_request(body(**more)).settings(GenerationSettings())


def test_a_question_is_read() -> None:
    assert parse_request(body()) == ChatRequest("tiny", "", (), ("What is it?",), {})


def test_rounds_are_told_from_the_question() -> None:
    request = parse_request(
        body(
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [PICTURE, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": "A boat.", "refusal": None, "tool_calls": None},
            {"role": "user", "content": "Why?"},
        )
    )
    picture = Medium("messages[1].content[0].image_url", "data:image/png;base64,AAAA")
    assert request.system == "Be short."
    assert request.rounds == (Round((picture, "What is it?"), "A boat."),)
    assert request.question == ("Why?",)


def test_questions_in_a_row_are_one() -> None:
    request = parse_request(
        body({"role": "user", "content": "Look."}, {"role": "user", "content": "What is it?"})
    )
    assert "".join(map(str, request.question)) == "Look.\nWhat is it?"


def test_an_answer_without_words_is_remembered_as_one() -> None:
    asked = {"role": "user", "content": "What?"}
    request = parse_request(body(asked, {"role": "assistant", "content": ""}, asked))
    assert request.rounds == (Round(("What?",), ""),)


def test_what_is_wanted_of_a_medium_is_read() -> None:
    clip = {"url": "file:///a.mp4", "start": 1, "end": 2.5, "fps": 4, "sound": False}
    request = parse_request(
        body({"role": "user", "content": [{"type": "video_url", "video_url": clip}, word("Why?")]})
    )
    where = "messages[0].content[0].video_url"
    wanted = Medium(where, "file:///a.mp4", 1.0, 2.5, Sampling(fps=4.0), sound=False)
    assert request.media == [wanted]


def word(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_sampling_of_the_request_is_for_clips_that_bring_none() -> None:
    own = {"type": "video_url", "video_url": {"url": "file:///a.mp4", "fps": 2}}
    content = [own, PICTURE, word("What?")]
    request = parse_request(body({"role": "user", "content": content}, frames=16))
    assert [medium.sampling for medium in request.media] == [Sampling(fps=2.0), Sampling(frames=16)]


def test_a_sound_comes_as_base64_and_a_format() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    request = parse_request(body({"role": "user", "content": [part, word("What?")]}))
    assert request.media[0].address == "data:audio/wav;base64,UklGRg=="


def test_without_a_word_the_servers_settings_hold() -> None:
    base = GenerationSettings(max_new_tokens=7, temperature=0.3, top_p=0.5, seed=3)
    assert parse_request(body(temperature=None, seed=None)).settings(base) == base


def test_settings_of_a_request_take_their_place() -> None:
    asked = {"temperature": 0.5, "top_p": 0.4, "seed": 5, "repetition_penalty": 1.2}
    assert settings(max_tokens=9, **asked) == GenerationSettings(max_new_tokens=9, **asked)
    assert settings(max_completion_tokens=9, num_beams=3) == GenerationSettings(
        max_new_tokens=9, num_beams=3
    )


@pytest.mark.parametrize("stop", ["a", ["a"]])
def test_one_stop_string_may_come_alone(stop: Any) -> None:
    assert parse_request(body(stop=stop)).stop == ("a",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n", 2),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"5": 1}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("reasoning_effort", "high"),
        ("web_search_options", {}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(key: str, value: Any) -> None:
    error = refused(**{key: value})
    assert (error.status, error.param, error.code) == (400, key, "unsupported_parameter")


@pytest.mark.parametrize(
    "more",
    [
        {"n": 1, "tools": [], "logprobs": False, "logit_bias": {}, "frequency_penalty": 0.0},
        {"response_format": {"type": "text"}, "modalities": ["text"], "tool_choice": "none"},
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    ],
)
def test_what_asks_for_nothing_is_let_through(more: dict[str, Any]) -> None:
    assert parse_request(body(**more)) == parse_request(body())


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"temperatures": 1}, "temperatures", "did you mean 'temperature'"),
        ({"temperature": 3}, "temperature", "a number from 0 to 2"),
        ({"temperature": "hot"}, "temperature", '"hot"'),
        ({"temperature": True}, "temperature", "true"),
        ({"top_p": 0}, "top_p", "is 0"),
        ({"seed": 1.5}, "seed", "whole number"),
        ({"seed": 2**63}, "seed", "whole number"),
        ({"max_tokens": 0}, "max_tokens", "whole number"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "one of them"),
        ({"stop": ["a"] * 5}, "stop", "up to 4"),
        ({"stop": [""]}, "stop", "string"),
        ({"stop": 5}, "stop", "string"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"stream": True, "stream_options": {"a": 1}}, "stream_options.a", "unknown key"),
        ({"num_beams": 2, "temperature": 1}, None, "beams are not drawn"),
        ({"frames": 8, "fps": 2}, "frames", "one of them"),
        ({"frames": 10**6}, "frames", "whole number"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(more: Any, param: str | None, said: str) -> None:
    error = refused(**more)
    assert error.status == 400
    assert error.param == param
    assert said in error.message


QUESTION = {"role": "user", "content": "What?"}


@pytest.mark.parametrize(
    ("messages", "param", "said"),
    [
        ([5], "messages[0]", "expected an object"),
        ([{"content": "a"}], "messages[0].role", "missing"),
        ([{"role": "tool", "content": "a"}], "messages[0].role", "'user'"),
        ([{"role": "user", "content": 5}], "messages[0].content", "a string or a list"),
        ([{"role": "user", "content": " \n"}], "messages[0]", "no words"),
        ([{"role": "user", "content": [PICTURE]}], "messages[0]", "no words"),
        ([{"role": "assistant", "content": "a"}], "messages[0]", "answers no question"),
        ([QUESTION, {"role": "assistant", "content": "a"}], "messages", "end with role user"),
        ([QUESTION, {"role": "system", "content": "a"}], "messages[1]", "comes first"),
        ([{**QUESTION, "name": "Ann"}], "messages[0].name", "not supported"),
        ([{**QUESTION, "colour": 1}], "messages[0].colour", "unknown key"),
        ([{"role": "system", "content": [PICTURE]}], "messages[0].content[0].image_url", "'user'"),
        ([QUESTION, {"role": "assistant", "tool_calls": [{}]}], "messages[1].tool_calls", "plain"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content", "half a character"),
    ],
)
def test_a_message_that_is_wrong_is_named(messages: list[Any], param: str, said: str) -> None:
    error = refused(*messages)
    assert (error.status, error.param) == (400, param)
    assert said in error.message


CLIP = "video_url"
SOUND = "input_audio"


@pytest.mark.parametrize(
    ("kind", "value", "field", "said"),
    [
        ("file", {}, "type", "'image_url'"),
        (None, "a", "type", "missing"),
        ("text", None, "text", "missing"),
        ("image_url", "data:,", "image_url", "expected an object"),
        ("image_url", {}, "image_url.url", "missing"),
        ("image_url", {"url": "a", "detail": "high"}, "image_url.detail", "size"),
        (CLIP, {"url": "a", "begin": 3}, "video_url.begin", "unknown"),
        (CLIP, {"url": "a", "start": 3, "end": 2}, "video_url.end", "3"),
        (CLIP, {"url": "a", "start": -1}, "video_url.start", "from 0"),
        (SOUND, {"format": "wav"}, "input_audio.data", "missing"),
        (SOUND, {"data": "a", "format": ";,"}, "input_audio.format", "wav"),
    ],
)
def test_a_part_that_is_wrong_is_named(kind: str | None, value: Any, field: str, said: str) -> None:
    part = {"type": kind, kind or "text": value}
    error = refused({"role": "user", "content": [word("a"), part]})
    assert error.param == f"messages[0].content[1].{field}"
    assert said in error.message


def test_a_huge_value_is_not_echoed() -> None:
    assert len(refused(model="x" * 10**6, stream="y" * 10**6).message) < 200


@pytest.mark.parametrize(
    "text",
    [b"{", b"[NaN]", b"\xff", b"[" * 10**5, b"", b"9" * 5000, b"[" + b"[]," * 10**6 + b"0]"],
)
def test_what_is_no_json_is_a_clients_error(text: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(text)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KEYS = ["messages", "temperature", "stop", "seed", "stream", "stream_options", "frames", "tools"]


def status_of(sent: dict[str, Any]) -> int:
    try:
        parse_request(sent)
    except ApiError as error:
        json.dumps(error.body())
        return error.status
    return 200


@given(st.dictionaries(st.sampled_from([*KEYS, "x"]), values))
def test_whatever_is_sent_is_read_or_refused(sent: dict[str, Any]) -> None:
    assert status_of({"model": "tiny", "messages": [QUESTION], **sent}) in (200, 400)


@given(st.lists(values, min_size=1, max_size=3), st.sampled_from(["user", "assistant", "system"]))
def test_whatever_stands_in_a_message_is_read_or_refused(content: list[Any], role: str) -> None:
    parts = [{"type": "video_url", "video_url": each} for each in content] + content
    for held in (parts, content[0]):
        assert status_of(body(QUESTION, {"role": role, "content": held})) in (200, 400)


def test_errors_of_files_name_no_folder() -> None:
    error = told(MediaError("cannot open /srv/data/clip.mp4: damaged", path="/srv/data/x"))
    assert (error.message, error.code) == ("cannot open clip.mp4: damaged", "invalid_media")
    assert without_folders("see https://a.b/c/d, or a/b") == "see https://a.b/c/d, or a/b"


def test_too_long_a_conversation_has_openais_code() -> None:
    assert told(ContextOverflow("too long")).code == "context_length_exceeded"
