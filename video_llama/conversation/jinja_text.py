"""Chat templates of Hugging Face directories: Jinja that came with weights, run in a sandbox.

The same dialect as transformers gives them (`apply_chat_template`): blocks leave no line feeds,
`raise_exception`, `tojson` without escapes, `strftime_now`, loop controls, `{% generation %}`. A
text is a function of the conversation alone: the date that some templates ask for never changes.
Nothing here knows what a rendered text means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Environment, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from video_llama.common.errors import ConfigError

TODAY = datetime(2024, 7, 26)
"""The date that LLaMA 3 writes where it is told none."""


_FAULTS = (
    *(TemplateError, TypeError, ValueError, AttributeError),
    *(LookupError, ArithmeticError, RecursionError),
)


class RefusedConversation(ConfigError):
    """A chat template takes no such conversation, say a system text or two questions in a row."""


def render_text(
    text: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    names: Mapping[str, str],
    generation_prompt: bool,
    folder: str,
) -> str:
    """Render a conversation.

    Args:
        text: of the template.
        messages: with "role" and "content".
        names: special tokens by the names that the text uses.
        generation_prompt: open the assistant's turn at the end.
        folder: where the template lies, for errors.

    Raises:
        ConfigError: the template is no Jinja; `RefusedConversation` if it fails for these messages.
    """
    try:
        template = _compiled(text)
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"its chat template cannot be read, line {error.lineno}: {error.message}", where=folder
        ) from error
    try:
        return template.render(
            messages=messages,
            add_generation_prompt=generation_prompt,
            # Models that think aloud where they are not told otherwise.
            enable_thinking=False,
            tools=None,
            documents=None,
            **names,
        )
    # Templates are programs, and raise what programs of others raise.
    except _FAULTS as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise RefusedConversation(
            f"its chat template refuses a conversation of {roles}: {error}", where=folder
        ) from error


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks answers for trainers; here it stands for them.

    Where answers are is found without it, since few templates have it.
    """

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=32)
def _compiled(text: str) -> Template:
    """Compile a template, once for all conversations."""
    environment: Environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TODAY.strftime
    return environment.from_string(text)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)
