"""The examples: files are what they are said to be, and the pages show what the model says."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import nbformat
import numpy as np
import pytest
from pages import ROOT
from PIL import Image

from video_llama.processors.probe import probe
from video_llama.toy.codec import decode_frames, decode_sound
from video_llama.toy.render import render_clip, render_frames
from video_llama.toy.scenes import MIRROR_S
from video_llama.toy.sound import synthesize

EXAMPLES = ROOT / "examples"
MAX_BYTES = 100_000
"""Of a file in the folder; all of them travel with every clone."""


def script(name: str) -> ModuleType:
    """Import a script of the folder."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def difference(first, second) -> float:
    """Mean distance of two pictures or clips, in levels of 0..255."""
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())


def test_the_toy_clips_show_the_scenes_of_the_script():
    make = script("make_examples")
    for name, scene, other in (
        ("toy_bounce.mp4", make.BOUNCE, make.CHANGE),
        ("toy_silent.mp4", make.CHANGE, make.BOUNCE),
    ):
        frames = decode_frames((EXAMPLES / name).read_bytes())
        assert difference(frames, render_clip(scene)) < 6 < difference(frames, render_clip(other))


def test_the_toy_picture_and_sounds_are_those_of_the_script():
    make = script("make_examples")
    picture = Image.open(EXAMPLES / "toy_picture.jpg")
    assert difference(picture, render_frames(make.PAIR, times_s=(MIRROR_S,))[0]) < 6
    for name, sound in (("toy_bounce.mp4", make.BOUNCE.sound), ("toy_sound.wav", make.BEEPS)):
        said = synthesize(sound)
        content = (EXAMPLES / name).read_bytes()
        heard = decode_sound(content) if name.endswith("mp4") else wave_of(EXAMPLES / name)
        share = min(len(said), len(heard))
        assert np.corrcoef(said[:share], heard[:share])[0, 1] > 0.9


def wave_of(path) -> np.ndarray:
    """The samples of a wav file."""
    import soundfile

    return soundfile.read(path, dtype="float32")[0]


def test_there_is_a_file_of_every_kind_and_none_is_large():
    media = [path for path in EXAMPLES.iterdir() if path.suffix not in (".py", ".ipynb")]
    found = {path.name: probe(path) for path in media if path.is_file()}
    kinds = {(info.kind, info.has_audio) for info in found.values()}
    assert {("video", True), ("video", False), ("image", False)} <= kinds
    assert any(info.kind == "audio" for info in found.values())
    assert max(path.stat().st_size for path in EXAMPLES.iterdir() if path.is_file()) < MAX_BYTES


@pytest.fixture(scope="module")
def told() -> str:
    make = script("make_conversations")
    return make.hold_conversations(make.load_chat(make.TOY))


def test_the_conversations_of_the_pages_are_what_the_model_says(told):
    make = script("make_conversations")
    for page in make.PAGES:
        text = page.read_text("utf-8")
        assert text.count(make.BEGIN) == text.count(make.END) == 1, page
        stale = f"{page.name} is stale: python examples/make_conversations.py"
        assert make.filled(text, told) == text, stale


def test_the_model_is_right_about_the_examples(told):
    make = script("make_examples")
    bounce, change, pair = make.BOUNCE, make.CHANGE, make.PAIR
    pip_bin, bin_ = bounce.sound.pip_bin, bounce.event.bin
    verdict = "yes" if pip_bin == bin_ else "no"
    by_colour = {thing.colour: thing.shape for thing in pair.things}
    truths = {
        "What colour is the circle?": bounce.things[0].colour,
        "When does it turn back?": bin_,
        "Is the pip in time with the bounce?": f"{bin_} {pip_bin}: {verdict}",
        "Which colour comes first?": change.things[0].colour,
        "Which colour comes last?": change.event.colour,
        "When does it change colour?": change.event.bin,
        "What shape is the red thing?": by_colour["red"],
        "What do you hear?": make.BEEPS.kind,
        "Is the sound low or high?": make.BEEPS.pitch,
    }
    for question, truth in truths.items():
        line = next(line for line in told.splitlines() if line.strip().startswith(question))
        assert line.removeprefix(f"  {question}").strip() == truth


def test_what_is_between_the_marks_is_replaced_and_nothing_else():
    make = script("make_conversations")
    page = f"before\n{make.BEGIN}old\nlines\n{make.END}after\n"
    assert make.filled(page, "new\n") == f"before\n{make.BEGIN}new\n{make.END}after\n"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_is_stored_with():
    runner = script("run_notebook")
    stored, fresh = runner.read(), runner.read()
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    runner.run(fresh, folder=ROOT)
    runner.cleaned(fresh)
    assert printed(fresh) == printed(stored), "python examples/run_notebook.py renews it"
    pictures = [len(p) for p in pictured(fresh)]
    assert len(pictures) == len(list(pictured(stored))) >= 4
    assert max(pictures) < 60_000


def test_the_notebook_is_stored_whole_clean_and_small():
    runner = script("run_notebook")
    stored = runner.read()
    nbformat.validate(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    before = nbformat.writes(stored)
    assert nbformat.writes(runner.cleaned(stored)) == before
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


def printed(notebook) -> list[str]:
    """What the cells wrote; drawn answers need not be the same on every processor."""
    return [
        "".join(out.text for out in cell.outputs if out.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code" and "temperature" not in cell.source
    ]


def pictured(notebook):
    """The pictures of the cells, as they are stored."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield from (
                picture
                for kind, picture in output.get("data", {}).items()
                if kind.startswith("image/")
            )
