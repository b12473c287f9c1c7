"""Chat templates in the manners that decoders come with, written for these tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

GOLDENS = Path(__file__).parents[1] / "goldens" / "conversation"

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}"
    "<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
CHATML_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "You are Tiny, made by nobody. You help.<|im_end|>{{ '\n' }}{% endif %}" + CHATML
)
HEADERS = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set told = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set told = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' }}
{{- strftime_now('%d %b %Y') + '\n\n' + told + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""
INST = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ ' ' + message['content'] + eos_token }}{% endif %}
{%- endfor %}"""
MODEL_TURNS = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
BARS = """{% for message in messages %}
{{- '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""
PLAIN_TEXT = """{% if messages[0]['role'] == 'system' %}
{%- set told = messages[0]['content'] %}{% set messages = messages[1:] %}
{%- else %}{% set told = 'A chat between a user and an assistant.' %}{% endif %}
{{- bos_token + told }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ ' USER: ' + message['content'].strip() }}
{%- else %}{{ ' ASSISTANT: ' + message['content'].strip() + eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"""
THINKING = """{% set ns = namespace(last=-1) %}
{% for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}
{% endif %}{% endfor %}
{% for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}
{%- endif %}
{{- message.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}
{%- endif %}{% endif %}"""
REASONING = """{{ bos_token }}{% for message in messages %}
{%- if message.role == 'user' %}{{ '<|user|>' + message.content }}
{%- elif message.role == 'assistant' %}
{%- set said = message.content %}
{%- if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}
{{- '<|assistant|>' + said + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"""
SYSTEM_IN_QUESTION = """{% if messages[0]['role'] == 'system' %}
{%- set told = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}
{%- set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{{- bos_token + '[INST] ' + (told if loop.first else '') + message['content'].strip() }}
{{- ' [/INST]' }}
{%- else %}{% generation %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}
{%- endgeneration %}{% endif %}{% endfor %}"""
PARTS = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}
{%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
{{- part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
UNCLOSED = """{% for message in messages %}
{%- if message['role'] == 'user' %}{{ '### Human: ' + message['content'] + '\n' }}
{%- elif message['role'] == 'assistant' %}{{ '### Reply: ' + message['content'] + '\n' }}
{%- endif %}{% endfor %}"""

STYLES = {
    "chatml": CHATML,
    "chatml_default": CHATML_DEFAULT,
    "headers": HEADERS,
    "inst": INST,
    "model_turns": MODEL_TURNS,
    "bars": BARS,
    "plain_text": PLAIN_TEXT,
    "thinking": THINKING,
    "reasoning": REASONING,
    "system_in_question": SYSTEM_IN_QUESTION,
    "parts": PARTS,
    "unclosed": UNCLOSED,
}
CLOSINGS = {
    "chatml": "<|im_end|>",
    "chatml_default": "<|im_end|>",
    "headers": "<|eot_id|>",
    "inst": "</s>",
    "model_turns": "<end_of_turn>",
    "bars": "<|end|>",
    "plain_text": "</s>",
    "thinking": "<|im_end|>",
    "reasoning": "</s>",
    "system_in_question": "</s>",
    "parts": "<|im_end|>",
    "unclosed": "</s>",
}
"""What closes an answer; in the last style nothing does, so that the end token is added."""

TOKENS = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
)
SWALLOWING = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
"""Those of Phi swallow the white space behind them."""


def sentencepiece_dir(folder: Path, *, style: str) -> Path:
    """A directory with a tokenizer.model, whose special tokens were added behind the words."""
    folder.mkdir(parents=True)
    shutil.copy(GOLDENS / "llama" / "tokenizer.model", folder)
    added = {
        str(1000 + i): {"content": token, "rstrip": token in SWALLOWING, "special": True}
        for i, token in enumerate(TOKENS)
    }
    config = {"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": added}
    config["chat_template"] = STYLES[style]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def fast_dir(folder: Path, *, style: str) -> Path:
    """A directory with a byte-level tokenizer.json, as most decoders of today have."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Library

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    library.train_from_iterator(["assistant user a red boat USER: ASSISTANT: [INST]"], trainer)
    library.add_special_tokens(
        [AddedToken(t, special=True, rstrip=t in SWALLOWING) for t in ("<s>", "</s>", *TOKENS)]
    )
    folder.mkdir(parents=True)
    library.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**names, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    (folder / "chat_template.jinja").write_text(STYLES[style])
    return folder
