"""What is said and asked about a toy world, in the layouts of the real data sets.

Rows only, as plain data; `world` writes them to files. WebVid's columns, cc_sbu_align's
`filter_cap.json`, LLaVA's and VideoChat's instruction files, MVBench's question rows with extra
keys. How each looks is shown in the readers of `video_llama.datasets`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from video_llama.toy import captions, questions
from video_llama.toy.held_out import Asked
from video_llama.toy.plan import Clip, Voice
from video_llama.toy.questions import Question
from video_llama.toy.scenes import Scene
from video_llama.toy.words import COLOURS, SHAPES

STREAMS = {"visual": ("video",), "sound": ("audio",), "joint": ("video", "audio")}
"""Media that are shown with each set of annotations."""

PICTURE_KINDS = ("colour", "shape", "count", "pair_colour", "pair_shape", "yn_colour")
"""Kinds of question that one frame answers."""

_CAPTIONS: Mapping[str, Callable[[Scene], str]] = {
    "visual": captions.visual_caption,
    "sound": captions.sound_caption,
    "joint": captions.joint_caption,
}
_LETTER_SHARE = 0.25

Row = dict[str, Any]


def webvid_rows(clips: Iterable[Clip], *, streams: str) -> list[Row]:
    """Caption clips.

    Args:
        clips: to be captioned.
        streams: a name in STREAMS: what the caption tells of.
    """
    say = _CAPTIONS[streams]
    return [
        {"videoid": clip.scene.key, "name": say(clip.scene), "page_dir": clip.page_dir}
        for clip in clips
    ]


def videochat_rows(
    clips: Iterable[Clip], asked: Iterable[Sequence[Question]], *, streams: str
) -> list[Row]:
    """Ask everything that the streams can answer about each clip, one conversation a clip.

    Args:
        clips: to be asked about.
        asked: what `ask_to_learn` makes of each.
        streams: a name in STREAMS: what can be answered.
    """
    return [
        _conversation(clip, [q for q in all_of_it if set(q.needs) <= set(STREAMS[streams])])
        for clip, all_of_it in zip(clips, asked, strict=True)
    ]


def cross_modal_rows(clips: Iterable[Clip], asked: Iterable[Sequence[Question]]) -> list[Row]:
    """Ask only what takes pictures and sound, and only about clips where there is such a question.

    Args:
        clips: some of which are asked about.
        asked: what `ask_to_learn` makes of each.
    """
    rows = (
        _conversation(clip, [q for q in all_of_it if len(q.needs) > 1])
        for clip, all_of_it in zip(clips, asked, strict=True)
    )
    return [row for row in rows if row["QA"]]


def picture_captions(scenes: Iterable[Scene]) -> Row:
    """Caption pictures, as `filter_cap.json` holds them."""
    rows = [{"image_id": scene.key, "caption": captions.visual_caption(scene)} for scene in scenes]
    return {"annotations": rows}


def llava_rows(scenes: Iterable[Scene]) -> list[Row]:
    """Ask about pictures, one conversation a picture."""
    rows = []
    for scene in scenes:
        asked = [question for question in questions.ask(scene) if question.kind in PICTURE_KINDS]
        turns = []
        for number, question in enumerate(asked):
            text = question.question if number else f"<image>\n{question.question}"
            turns.append({"from": "human", "value": text})
            turns.append({"from": "gpt", "value": question.answer})
        rows.append({"id": scene.key, "image": f"{scene.key}.jpg", "conversations": turns})
    return rows


def question_rows(clips: Iterable[Clip], *, asked: Iterable[Asked]) -> list[Row]:
    """Write the questions of a split.

    Args:
        clips: that are asked about, others may be among them.
        asked: what is asked, see `held_out.choose_questions`.
    """
    path_of = {clip.scene.key: clip.path for clip in clips}
    return [_question_row(path_of[key], key=key, question=question) for key, question in asked]


def answerable(rows: Iterable[Row], *, streams: str) -> list[Row]:
    """Keep the questions that a set of streams answers."""
    return [row for row in rows if set(row["needs"]) <= set(STREAMS[streams])]


def voice_rows(voices: Iterable[Voice]) -> list[Row]:
    """Ask who speaks: the shape by its timbre, the colour by its pitch."""
    rows = []
    for voice in voices:
        for kind, text, answer, options in (
            ("voice_shape", f"What shape is the {voice.colour} thing?", voice.shape, SHAPES),
            ("voice_colour", f"What colour is the {voice.shape}?", voice.colour, COLOURS),
        ):
            question = Question(kind, text, answer, options, ("audio",))
            rows.append(_question_row(f"{voice.key}.wav", key=voice.key, question=question))
    return rows


def voice_ceilings() -> dict[str, dict[str, float]]:
    """Return chance and ceilings of the voice questions: without the sound, a guess is left."""
    return {
        kind: {"chance": 1 / number, "blind": 1.0, "deaf": 1 / number, "order_blind": 1.0}
        for kind, number in (("voice_shape", len(SHAPES)), ("voice_colour", len(COLOURS)))
    }


def scene_row(scene: Scene) -> str:
    """Write a scene as one line of JSON; times without end become null."""
    return json.dumps(_finite(dataclasses.asdict(scene)))


def ask_to_learn(scene: Scene) -> list[Question]:
    """Ask everything about a scene, some of it with lettered options."""
    rng = random.Random(f"toy letters/{scene.key}")
    return [
        questions.letter_choice(question, rng=rng)
        if question.kind in questions.MULTIPLE_CHOICE_KINDS and rng.random() < _LETTER_SHARE
        else question
        for question in questions.ask(scene)
    ]


def _conversation(clip: Clip, asked: Iterable[Question]) -> Row:
    """Write a conversation as VideoChat does."""
    turns = [{"i": "", "q": question.question, "a": question.answer} for question in asked]
    return {"video": clip.path, "QA": turns}


def _question_row(path: str, *, key: str, question: Question) -> Row:
    """Write a question as MVBench does; only multiple choice has candidates."""
    row: Row = {"video": path, "question": question.question, "answer": question.answer}
    if question.kind.startswith("mc_"):
        row["candidates"] = list(question.candidates)
    return {
        **row,
        "kind": question.kind,
        "key": key,
        "needs": list(question.needs),
        "options": list(question.candidates),
    }


def _finite(value: Any) -> Any:
    """Replace infinities, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isinf(value) else value
