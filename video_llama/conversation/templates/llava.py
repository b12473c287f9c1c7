"""The prompts of LLaVA and Video-LLaVA.

Media stand in the text without marks, and words follow them after a line feed. Text on the two
sides of a medium, and on the two sides of an end token, is tokenised apart, so that each part has
a dummy prefix of its own where the vocabulary has one.

Source of the published texts: PKU-YuanGroup/Video-LLaVA at 984e65b, videollava/conversation.py,
train/train.py (preprocess_v1, preprocess_llama_2, preprocess_plain), mm_utils.py; `llava_hf`: the
model card of LanguageBind/Video-LLaVA-7B-hf.
"""

from __future__ import annotations

import dataclasses

from video_llama.common.registry import registry
from video_llama.conversation.layouts import EOS, Layout, Template, Text
from video_llama.conversation.templates.marks import (
    BARE_MEDIA,
    PLACEHOLDERS,
    SPECIAL,
    supervised,
)
from video_llama.conversation.templates.video_llama import LLAMA_2, LLAMA_2_RELEASED

_TALK = (
    "A chat between a curious {user} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {user}'s questions."
)
_MEDIA = ("<image>", "<video>", *PLACEHOLDERS)

_BARE = Layout(
    lead=(),
    user_before=(Text("USER: "),),
    user_after=(Text(" "),),
    header=(Text("ASSISTANT:"),),
    answer_before=supervised(" "),
    answer_after=(EOS,),
    system_marks=("", " "),
    join="\n",
)
_V1 = dataclasses.replace(_BARE, system=_TALK.format(user="user"))
_LLAVA_V1 = dataclasses.replace(_BARE, system=_TALK.format(user="human"))
_LLAMA_2 = dataclasses.replace(LLAMA_2.instruct, system=LLAMA_2_RELEASED.chat.system, join="\n")
_PLAIN = Layout(
    lead=(),
    user_before=(),
    user_after=(),
    header=(),
    answer_before=(),
    answer_after=supervised("\n"),
    join="",
    drops_words=True,
)

VICUNA_V1 = Template(
    name="vicuna_v1",
    source="Vicuna 1.1 and later; conv_vicuna_v1, what Video-LLaVA was trained with",
    instruct=_V1,
    chat=_V1,
    differs=(),
    media_marks=BARE_MEDIA,
    caption_end=(EOS,),
    stop=("</s>",),
    forgeable=("USER:", "ASSISTANT:", *_MEDIA, *SPECIAL),
)
LLAVA_V1 = dataclasses.replace(
    VICUNA_V1,
    name="llava_v1",
    source="conv_llava_v1: what Video-LLaVA's demo and video evaluations use",
    instruct=_LLAVA_V1,
    chat=_LLAVA_V1,
)
LLAVA_HF = dataclasses.replace(
    VICUNA_V1,
    name="llava_hf",
    source="the same turns without a system text, as transformers' VideoLlava is prompted",
    instruct=_BARE,
    chat=_BARE,
)
LLAVA_LLAMA_2 = dataclasses.replace(
    VICUNA_V1,
    name="llava_llama_2",
    source="LLaMA-2-chat turns; conv_llava_llama_2",
    instruct=_LLAMA_2,
    chat=_LLAMA_2,
    forgeable=("<image>", "<video>", *LLAMA_2.forgeable),
)
PLAIN = dataclasses.replace(
    VICUNA_V1,
    name="plain",
    source="media, caption, line feed (conv_llava_plain): for aligning; it reads no question",
    instruct=_PLAIN,
    chat=_PLAIN,
    caption_end=supervised("\n"),
    stop=("\n",),
    forgeable=(*_MEDIA, *SPECIAL),
)

for _template in (VICUNA_V1, LLAVA_V1, LLAVA_HF, LLAVA_LLAMA_2, PLAIN):
    registry.register_template(_template.name)(_template)
