"""The demo page as a whole: which button of the layout calls which handler, and who waits for whom.

Uploads wait for uploads and answers for answers; stopping, clearing and typing wait for nobody.
The browser is told what to show and decides nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from video_llama.apps.demo_about import About, Example
from video_llama.apps.demo_handlers import Handlers
from video_llama.apps.demo_layout import (
    NOT_READY,
    NOTHING_SEEN,
    READY,
    TITLE,
    Layout,
    lay_out,
)
from video_llama.apps.demo_view import Span, View

if TYPE_CHECKING:
    from gradio import Blocks, LikeData

    from video_llama.apps.votes import Verdict

ONE_UPLOAD = {"concurrency_limit": 1, "concurrency_id": "uploads"}
ONE_ANSWER = {"concurrency_limit": 1, "concurrency_id": "answers"}
"""Gradio's own queues, which tell a visitor how many stand in front."""

FILES_AGE_S = 24 * 3600
"""Uploads that no visit knows of, e.g. of a program that never used them, go after a day."""


def build_page(handlers: Handlers, about: About, *, gradio: Any) -> Blocks:
    """Lay the page out and wire it; launching is the caller's business.

    Args:
        handlers: what its buttons do.
        about: what it says of its model.
        gradio: the module, handed in because it is imported on demand.
    """
    with gradio.Blocks(
        title=f"{TITLE} · {about.model} · {about.template}",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(3600, FILES_AGE_S),
    ) as page:
        layout = lay_out(about, gradio=gradio)
        acts = _Acts(handlers, about, gradio)
        _wire_files(layout, acts)
        _wire_questions(layout, acts)
        _wire_the_rest(layout, acts)
        page.unload(acts.in_session(acts.leave))
        if about.votes is not None:
            layout.talk.turns.like(acts.in_session(acts.vote, event=gradio.LikeData), None, None)
    return page


class _Acts:
    """What events call: arguments from the page, updates for it.

    Every update has the shape of `_shown_on`.
    """

    def __init__(self, handlers: Handlers, about: About, gradio: Any) -> None:
        self._handlers = handlers
        self._about = about
        self._gr = gradio

    def in_session(self, act: Callable[..., Any], **hints: type) -> Callable[..., Any]:
        """Let Gradio hand the browser session to an act in place of its first argument.

        Args:
            act: a method of this class.
            hints: other arguments that Gradio fills in by their type.
        """
        taken = list(inspect.signature(act).parameters.values())[1:]
        request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if inspect.isgeneratorfunction(act):

            def called(request: Any, *values: Any) -> Any:
                yield from act(request.session_hash, *values)
        else:

            def called(request: Any, *values: Any) -> Any:
                return act(request.session_hash, *values)

        # Gradio is not imported where our annotations stand, so it gets them here.
        called.__annotations__ = {"request": self._gr.Request, **hints}
        called.__signature__ = inspect.Signature([request, *taken])  # type: ignore[attr-defined]
        return called

    def hold(self, session: str, file: Any) -> None:
        self._handlers.hold(session, file)

    def start(
        self,
        session: str,
        video: Any,
        picture: Any,
        sound: Any,
        start_s: float | None,
        end_s: float | None,
        frames: int | None,
        listen: bool,
    ) -> list[Any]:
        return self._put(
            self._handlers.start(
                session, [video, picture, sound], self._span(start_s, end_s, frames, listen)
            )
        )

    def example(self, examples: Sequence[Example], session: str, index: int) -> list[Any]:
        chosen = examples[index]
        view = self._handlers.start(session, [str(chosen.path)], Span())
        return self._put(dataclasses.replace(view, question=chosen.question))

    def ask(self, session: str, question: str, *knobs: float | None) -> list[Any]:
        return self._put(self._handlers.ask(session, question, knobs))

    def ask_again(self, session: str, *knobs: float | None) -> list[Any]:
        return self._put(self._handlers.ask_again(session, knobs))

    def answer(self, session: str) -> Iterator[list[Any]]:
        for view in self._handlers.answer(session):
            yield self._put(view)

    def stop(self, session: str) -> list[Any]:
        return self._put(self._handlers.stop(session))

    def undo(self, session: str) -> list[Any]:
        return self._put(self._handlers.undo(session))

    def clear(self, session: str) -> list[Any]:
        return self._put(self._handlers.clear(session))

    def leave(self, session: str) -> None:
        self._handlers.leave(session)

    def vote(self, session: str, event: LikeData) -> None:
        index = event.index if isinstance(event.index, int) else event.index[0]
        verdict: dict[Any, Verdict] = {True: "up", False: "down"}
        # What it says when a thumb is taken back is no boolean.
        self._handlers.vote(session, index, verdict.get(event.liked, "withdrawn"))

    def _span(
        self, start_s: float | None, end_s: float | None, frames: int | None, listen: bool
    ) -> Span:
        # The number it was trained with need not be asked for.
        wanted = None if frames in (None, self._about.num_frames) else frames
        most = self._about.most_frames
        # A program is not held by the slider.
        if wanted is not None and not (isinstance(wanted, int) and 0 < wanted <= most):
            raise self._gr.Error(
                f"frames: {wanted}, expected a whole number from 1 to {most}",
                title="These frames do not go", print_exception=False,
            )  # fmt: skip
        return Span(start_s or None, end_s or None, wanted, listen)

    def _put(self, view: View) -> list[Any]:
        """Return the updates of `_shown_on` for a view."""
        gr = self._gr
        keep = gr.skip()
        can_ask = view.is_ready and not view.is_busy
        can_go_back = view.can_go_back and not view.is_busy
        question = {} if view.question is None else {"value": view.question}
        return [
            view.turns,
            keep if view.saw is None else view.saw or NOTHING_SEEN,
            keep if view.status is None else view.status,
            gr.Textbox(
                interactive=view.is_ready, placeholder=READY if view.is_ready else NOT_READY,
                **question,
            ),
            gr.Button(interactive=can_ask),
            gr.Button(interactive=view.is_busy),
            gr.Button(interactive=can_go_back),
            gr.Button(interactive=can_go_back),
        ]  # fmt: skip


def _shown_on(layout: Layout) -> list[Any]:
    """The components that show a view."""
    talk = layout.talk
    return [
        talk.turns, talk.saw, talk.status, talk.question, talk.send, talk.stop,
        talk.again, talk.undo,
    ]  # fmt: skip


def _wire_files(layout: Layout, acts: _Acts) -> None:
    """Choosing a file, starting with it, examples."""
    files = layout.files
    for box in files.boxes:
        # Files stay closed until a child process reads them: no preprocessing by Gradio.
        box.upload(
            acts.in_session(acts.hold), box, None, preprocess=False, queue=False,
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip
    files.start.click(
        acts.in_session(acts.start), [*files.boxes, *files.span], _shown_on(layout),
        preprocess=False, show_progress="minimal", show_progress_on=layout.talk.turns,
        api_name="start", **ONE_UPLOAD,
    ).success(
        lambda: [None] * len(files.boxes), None, files.boxes, queue=False, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
    for box, examples in files.examples:
        box.click(
            acts.in_session(partial(acts.example, examples)), box, _shown_on(layout),
            show_progress="minimal", show_progress_on=layout.talk.turns,
            api_visibility="private", **ONE_UPLOAD,
        )  # fmt: skip


def _wire_questions(layout: Layout, acts: _Acts) -> None:
    """Asking and asking again; each of them is followed by an answer."""
    talk, shown = layout.talk, _shown_on(layout)
    for trigger, api in ((talk.question.submit, "ask"), (talk.send.click, None)):
        asked = trigger(
            acts.in_session(acts.ask), [talk.question, *layout.knobs], shown, queue=False,
            show_progress="hidden", api_name=api,
            api_visibility="public" if api else "private",
        )  # fmt: skip
        _answer_after(asked, layout, acts, api="answer" if api else None)
    again = talk.again.click(
        acts.in_session(acts.ask_again), [*layout.knobs], shown, queue=False,
        show_progress="hidden", api_name="regenerate",
    )  # fmt: skip
    _answer_after(again, layout, acts, api=None)


def _answer_after(asked: Any, layout: Layout, acts: _Acts, *, api: str | None) -> None:
    asked.success(
        acts.in_session(acts.answer), None, _shown_on(layout), show_progress="minimal",
        show_progress_on=layout.talk.turns, api_name=api,
        api_visibility="public" if api else "private",
        # One that was cleared away may still be in the line, and must not keep the next one out.
        trigger_mode="multiple", **ONE_ANSWER,
    )  # fmt: skip


def _wire_the_rest(layout: Layout, acts: _Acts) -> None:
    """What ends or takes back; nothing of it waits."""
    talk, shown = layout.talk, _shown_on(layout)
    at_once = {"queue": False, "show_progress": "hidden"}
    talk.stop.click(acts.in_session(acts.stop), None, shown, api_name="stop", **at_once)
    talk.undo.click(acts.in_session(acts.undo), None, shown, api_name="undo", **at_once)
    # The answer being given ends by itself, and with a look at what is to be shown then.
    talk.clear.click(acts.in_session(acts.clear), None, shown, api_name="clear", **at_once)
    talk.turns.clear(acts.in_session(acts.clear), None, shown, api_visibility="private", **at_once)
