from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest
from parrot import VIDEO, Parrot

from video_llama.apps import chat as app
from video_llama.apps import loading
from video_llama.common.errors import ConfigError, MediaError
from video_llama.conversation.templates import get_template


def run(monkeypatch: pytest.MonkeyPatch, parrot: Parrot, *words: str, typed: str = "") -> int:
    """Run the verb with a parrot in place of the model of a run file."""
    monkeypatch.setattr(loading, "load_chat", lambda source, **flags: parrot.chat())
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    parser = argparse.ArgumentParser()
    app.add_arguments(parser)
    return app.main(parser.parse_args(list(words)))


def test_a_question_on_the_command_line_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, sounding_clip: Path
) -> None:
    code = run(
        monkeypatch, Parrot("a boat###"), "--file", str(sounding_clip), "--question", "What?"
    )
    assert code == 0
    assert capsys.readouterr().out.splitlines() == [
        f"[{sounding_clip}: 4 frames at 0, 0.25, 0.5, 0.75 s]",
        f"[{sounding_clip}: 2 pieces of sound beginning at 0, 0.41 s]",
        "> What?",
        "a boat",
    ]


def test_json_holds_files_answers_and_notes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, sounding_clip: Path
) -> None:
    parrot = Parrot("a boat###", branches=[VIDEO])
    words = ["--file", str(sounding_clip), "--question", "What?", "--question", "Why?", "--json"]
    run(monkeypatch, parrot, *words)
    told = json.loads(capsys.readouterr().out)
    assert [file["media"][0]["kind"] for file in told["files"]] == ["video"]
    assert "no branch for audio" in told["files"][0]["notes"][0]
    assert [answer["question"] for answer in told["answers"]] == ["What?", "Why?"]
    assert {answer["answer"] for answer in told["answers"]} == {"a boat"}
    first, second = (answer["usage"] for answer in told["answers"])
    assert first["prompt_tokens"] == len(parrot.heard[0].input_ids)
    assert first["completion_tokens"] == len(parrot.tokenizer.encode_run("a boat###").ids)
    assert first["cached_tokens"] == 0
    assert second["cached_tokens"] == first["prompt_tokens"]
    assert {answer["finish_reason"] for answer in told["answers"]} == {"stop"}
    assert told["error"] is None


def test_lines_are_questions_and_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, sounding_clip: Path
) -> None:
    parrot = Parrot("a boat###")
    typed = (
        f"/file {sounding_clip}\nWhat?\n\n/reset\n/nonsense\n/file nowhere.mp4\nWho?\n/quit\nNo?"
    )
    assert run(monkeypatch, parrot, typed=typed) == 2
    shown = capsys.readouterr().out
    assert shown.count("a boat") == 2
    assert "no command /nonsense" in shown
    assert "nowhere.mp4" in shown
    assert "\x1b" not in shown
    assert "> " not in shown
    assert parrot.last_prompt() == "###Human: Who?###Assistant:"


def test_the_end_of_input_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, Parrot("a boat###"), typed="What?") == 0


def test_an_interrupted_script_asks_no_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Interrupted(Parrot):
        def stream_prompt(self, **prompt):
            yield next(super().stream_prompt(**prompt))
            raise KeyboardInterrupt

    parrot = Interrupted("one two three###")
    assert run(monkeypatch, parrot, "--question", "Count", "--question", "Again") == 130
    assert len(parrot.heard) == 1


def test_json_says_what_went_wrong_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["--file", "nowhere.mp4", "--question", "What?", "--json"]
    assert run(monkeypatch, Parrot(""), *words) == 2
    told = capsys.readouterr()
    assert "nowhere.mp4: no such file" in json.loads(told.out)["error"]
    assert json.loads(told.out)["answers"] == []
    assert "nowhere.mp4" in told.err


def test_interrupting_an_answer_keeps_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Interrupted(Parrot):
        def stream_prompt(self, **prompt):
            for count, token_id in enumerate(super().stream_prompt(**prompt)):
                if count == 3 and len(self.heard) == 1:
                    raise KeyboardInterrupt
                yield token_id

    parrot = Interrupted("one two three###")
    run(monkeypatch, parrot, typed="Count\nAgain")
    assert "[stopped]" in capsys.readouterr().out
    assert "Count###Assistant: on" in parrot.last_prompt()


def test_a_missing_file_is_an_error_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.mp4"):
        run(monkeypatch, Parrot(""), "--file", "nowhere.mp4", "--question", "What?")


def test_json_needs_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--question"):
        run(monkeypatch, Parrot(""), "--json")


def test_a_senseless_temperature_is_an_error_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="temperature is -1"):
        run(monkeypatch, Parrot(""), "--question", "What?", "--temperature", "-1")


def test_generation_flags_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    parrot = Parrot("one two three")
    run(monkeypatch, parrot, "--question", "Count", "--max-new-tokens", "2", "--seed", "7")
    assert (parrot.heard[0].settings.max_new_tokens, parrot.heard[0].settings.seed) == (2, 7)


@pytest.mark.parametrize("compat", ["corrected", "released"])
def test_compat_decides_how_long_a_conversation_may_be(
    monkeypatch: pytest.MonkeyPatch, compat: str
) -> None:
    parrot = Parrot("a boat###", max_context=3000)
    monkeypatch.setattr(
        loading,
        "load_model",
        lambda config: loading.LoadedModel(parrot, parrot.tokenizer, get_template("vicuna_v0")),
    )
    monkeypatch.setattr(loading, "log_measured", lambda model, device: None)
    chat = loading.load_chat(app.TOY_RUN_FILE, options=[f"model.compat={compat}"])
    for number in range(6):
        chat.ask(f"Question number {number}? " + "word " * 500)
    longest = max(len(heard.input_ids) for heard in parrot.heard)
    # The published chat keeps to 2000 positions whatever the decoder has.
    assert (longest <= 2000) == (compat == "released")
    assert longest > 1000
