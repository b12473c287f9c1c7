"""The prompts of Video-LLaMA and of the decoders it was published with.

Source of the published texts: DAMO-NLP-SG/Video-LLaMA at 64888c0, conversation_video.py,
video_instruct_dataset.py, llava_instruct_dataset.py, video_processor.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from video_llama.common.registry import registry
from video_llama.common.types import MediaKind
from video_llama.conversation.layouts import BOS, EOS, Cut, Layout, Template, Text, Word
from video_llama.conversation.templates.marks import (
    MEDIA_MARKS,
    PLACEHOLDERS,
    SPECIAL,
    supervised,
)

# The published audio branch was trained on frames, between the marks of a video.
_RELEASED_MARKS = {**MEDIA_MARKS, "audio": MEDIA_MARKS["video"]}

_DEMO_SYSTEM = (
    "You are able to understand the visual content that the user provides. "
    "Follow the instructions carefully and explain your answers in detail."
)
_LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_JOINT_SENTENCE = (
    "Close your eyes, open your ears and you imagine only based on the sound that: {audio}."
    + 17 * " "
    + "Close your ears, open your eyes and you see that <Video>{video}</Video>."
    + 18 * " "
    + "Now answer my question based on what you have just seen and heard."
)
# The demo empties the system text for everything but pictures.
_DEMO_SYSTEMS: Mapping[MediaKind, str] = {"image": _DEMO_SYSTEM, "video": "", "audio": ""}

_VICUNA = Layout(
    lead=(Text("###"),),
    user_before=(Text("Human: "),),
    user_after=(Text("###"),),
    header=(Text("Assistant:"),),
    answer_before=supervised(" "),
    answer_after=supervised("###"),
)
_LLAMA_2 = Layout(
    lead=(),
    user_before=(BOS, Text("[INST] ")),
    user_after=(Text(" [/INST]"),),
    header=(),
    answer_before=supervised(" "),
    answer_after=(*supervised(" "), EOS),
    system_marks=("<<SYS>>\n", "\n<</SYS>>\n\n"),
    system_in_user=True,
)

VICUNA_V0 = Template(
    name="vicuna_v0",
    source="Vicuna v0 turns as Video-LLaMA's chat writes them; only answers are supervised",
    instruct=_VICUNA,
    chat=_VICUNA,
    differs=(),
    media_marks=MEDIA_MARKS,
    caption_end=supervised("###"),
    stop=("###",),
    forgeable=("###", *PLACEHOLDERS, *SPECIAL),
)
VICUNA_V0_RELEASED = dataclasses.replace(
    VICUNA_V0,
    name="vicuna_v0_released",
    source="Video-LLaMA 64888c0: preprocess and _mask_targets; conv_template default",
    instruct=dataclasses.replace(
        _VICUNA,
        lead=(Text("\n\n"), *supervised("###")),
        user_after=(Text("\n"), *supervised("###")),
        header=supervised("Assistant:"),
        answer_after=supervised("\n###"),
    ),
    chat=dataclasses.replace(_VICUNA, join="  ", joint=_JOINT_SENTENCE, systems=_DEMO_SYSTEMS),
    prompted_caption=Layout(
        lead=(),
        user_before=(Text("###Human: "),),
        user_after=(Text(" "),),
        header=(Text("###Assistant:"),),
        answer_before=(Text(" "), Cut()),
        answer_after=supervised("###"),
    ),
    differs=(
        "instruct opens with two line feeds and ends every turn with one before '###'",
        "instruct supervises every '###' and the words 'Assistant:' too",
        "chat has two spaces between a media item and the question, instruct one",
        "chat tells of a video with sound in a sentence of its own, audio first, without seconds",
        "chat has a system text for pictures",
    ),
    media_marks=_RELEASED_MARKS,
    caption_end=supervised("\n"),
    cuts_caption_end=True,
    frame_times=True,
)
LLAMA_2 = Template(
    name="llama_2",
    source="LLaMA-2-chat turns; only answers are supervised",
    instruct=_LLAMA_2,
    chat=_LLAMA_2,
    differs=(),
    media_marks=MEDIA_MARKS,
    caption_end=(EOS,),
    stop=("</s>",),
    forgeable=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", *PLACEHOLDERS, *SPECIAL),
)
LLAMA_2_RELEASED = dataclasses.replace(
    LLAMA_2,
    name="llama_2_released",
    source="Video-LLaMA 64888c0: preprocess_for_llama_v2; conv_llava_llama_2",
    instruct=dataclasses.replace(
        _LLAMA_2, system=" ", keeps_empty_system=True, drops_unpaired_answers=True
    ),
    chat=dataclasses.replace(
        _LLAMA_2,
        system=_LLAMA_2_SYSTEM,
        systems=_DEMO_SYSTEMS,
        keeps_empty_system=True,
        join="  ",
        joint=_JOINT_SENTENCE,
    ),
    prompted_caption=Layout(
        lead=(),
        user_before=(Text("[INST] <<SYS>>\n \n<</SYS>>\n\n"),),
        user_after=(Text(" [/INST]"),),
        header=(),
        answer_before=(Text(" "), Cut()),
        answer_after=(EOS,),
    ),
    differs=(
        "instruct has one space as its system text, chat a sentence or nothing",
        "instruct drops an empty answer and an answer before the first question",
        "chat has two spaces between a media item and the question, instruct one",
        "chat tells of a video with sound in a sentence of its own, audio first, without seconds",
    ),
    media_marks=_RELEASED_MARKS,
    caption_end=supervised("\n"),
    cuts_caption_end=True,
    frame_times=True,
)

_BILLA = Layout(
    lead=(),
    user_before=(Text("Human: "),),
    user_after=(Text("\n"),),
    # "There must be a space after Assistant:"; the answer is tokenised apart from it.
    header=(Text("Assistant: "),),
    answer_before=(Cut(),),
    answer_after=(EOS,),
)
_ZIYA = Layout(
    lead=(),
    user_before=(Word("<human>"), Text(":")),
    user_after=(Text("\n"),),
    header=(Word("<bot>"), Text(":")),
    answer_before=(Cut(),),
    answer_after=(EOS,),
)
BILLA = dataclasses.replace(
    LLAMA_2,
    name="billa",
    source="Neutralzz/BiLLa 0850e9e: README and alignment_sft_main.py; it knows single turns only",
    instruct=_BILLA,
    chat=_BILLA,
    stop=("</s>", "\nHuman:"),
    forgeable=("Human:", "Assistant:", *PLACEHOLDERS, *SPECIAL),
)
ZIYA = dataclasses.replace(
    LLAMA_2,
    name="ziya",
    source="Ziya-LLaMA-13B-v1's card; IDEA-CCNL/Fengshenbang-LM 1a2aafe, finetune_ziya_llama.py",
    instruct=_ZIYA,
    chat=_ZIYA,
    stop=("</s>", "<human>"),
    forgeable=("<human>", "<bot>", *PLACEHOLDERS, *SPECIAL),
)

for _template in (VICUNA_V0, VICUNA_V0_RELEASED, LLAMA_2, LLAMA_2_RELEASED, BILLA, ZIYA):
    registry.register_template(_template.name)(_template)
