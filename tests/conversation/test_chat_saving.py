from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parrot import VIDEO, Parrot
from PIL import Image

from video_llama.common.errors import ConfigError, MediaError, VideoLlamaError
from video_llama.common.generation import GenerationSettings
from video_llama.conversation.chat import Chat

GREY = Image.new("RGB", (20, 30), (90, 90, 90))


@pytest.fixture
def clip(sounding_clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sounding_clip, tmp_path / "clip.mp4"))


def held(parrot: Parrot, clip: Path) -> Chat:
    """Hold a conversation with a file, a picture from memory, and one more that waits."""
    chat = parrot.chat()
    chat.settings = GenerationSettings(max_new_tokens=40, temperature=0.5, seed=7)
    upload = chat.upload(clip, start_s=0.25, frames=2)
    chat.upload(GREY)
    chat.ask(["Compare", upload, "please: \u65e5"])
    chat.ask("Why?")
    chat.upload(clip, sound=False)
    return chat


def test_a_conversation_goes_on_where_it_was_saved(clip: Path, tmp_path: Path) -> None:
    parrot = Parrot("a boat###")
    chat = held(parrot, clip)
    chat.save(tmp_path / "saved")
    chat.ask("And then?")
    reader = Parrot("a boat###")
    again = reader.chat()
    again.restore(tmp_path / "saved")
    assert again.settings == GenerationSettings(max_new_tokens=40, temperature=0.5, seed=7)
    assert again.history == chat.history[:4]
    assert len(again.uploads) == 1
    again.ask("And then?")
    assert reader.last_prompt() == parrot.last_prompt()
    for ours, theirs in zip(reader.heard[-1].media, parrot.heard[-1].media, strict=True):
        assert ours.tolist() == theirs.tolist()


def test_what_came_from_memory_is_written_beside_and_files_stay(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    held(Parrot("a boat###"), clip).save(folder)
    tree = json.loads((folder / "conversation.json").read_text())
    assert [entry.get("path") for entry in tree["media"]] == [None, str(clip), str(clip)]
    assert [path.name for path in (folder / "media").iterdir()] == [tree["media"][0]["stored"]]
    assert sorted(path.name for path in folder.iterdir()) == ["conversation.json", "media"]


def test_saving_over_a_conversation_leaves_nothing_of_its_media(tmp_path: Path) -> None:
    chat = Parrot("a boat###").chat()
    chat.upload(GREY)
    chat.save(tmp_path)
    chat.reset()
    chat.upload(Image.new("RGB", (8, 8)))
    chat.save(tmp_path)
    (tmp_path / "media" / "mine.txt").write_text("not a medium")
    chat.save(tmp_path)
    tree = json.loads((tmp_path / "conversation.json").read_text())
    names = sorted(path.name for path in (tmp_path / "media").iterdir())
    assert names == sorted(["mine.txt", tree["media"][0]["stored"]])


def test_half_a_surrogate_pair_can_be_saved(tmp_path: Path) -> None:
    chat = Parrot("a boat###").chat()
    chat.set_system("s\ud83d")
    chat.remember("q\ud83d", "a\ud83d")
    chat.save(tmp_path)
    chat.restore(tmp_path)
    assert [turn.text for turn in chat.history] == ["q?", "a?"]


def test_an_identity_of_another_kind_is_a_changed_medium(tmp_path: Path) -> None:
    folder = broken(lambda tree: tree["media"][0].update(identity=[7, ""]), tmp_path)
    with pytest.raises(MediaError, match="not as in the conversation"):
        Parrot("").chat().restore(folder)


def test_a_system_text_is_saved_too(tmp_path: Path) -> None:
    chat = Parrot("a boat###").chat()
    chat.set_system("Be brief.")
    chat.save(tmp_path)
    parrot = Parrot("a boat###")
    again = parrot.chat()
    again.restore(tmp_path)
    again.ask("What?")
    assert parrot.last_prompt() == "Be brief.###Human: What?###Assistant:"


def test_a_missing_medium_is_named(clip: Path, tmp_path: Path) -> None:
    held(Parrot("a boat###"), clip).save(tmp_path / "saved")
    clip.unlink()
    with pytest.raises(MediaError, match=r"clip\.mp4: .*the conversation saved in .*is about it"):
        Parrot("").chat().restore(tmp_path / "saved")


def test_a_changed_medium_is_named(clip: Path, tmp_path: Path) -> None:
    held(Parrot("a boat###"), clip).save(tmp_path / "saved")
    with clip.open("ab") as file:
        file.write(b"\0" * 16)
    with pytest.raises(MediaError, match=r"clip\.mp4: not as in .*it has changed since"):
        Parrot("").chat().restore(tmp_path / "saved")


def test_a_deaf_model_cannot_go_on_about_sound(clip: Path, tmp_path: Path) -> None:
    held(Parrot("a boat###"), clip).save(tmp_path / "saved")
    with pytest.raises(MediaError, match="gave video and audio then, for this model video"):
        Parrot("", branches=[VIDEO]).chat().restore(tmp_path / "saved")


def test_a_lost_picture_from_memory_is_named(clip: Path, tmp_path: Path) -> None:
    held(Parrot("a boat###"), clip).save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved" / "media")
    with pytest.raises(MediaError, match="media/[0-9a-f]+: cannot be read"):
        Parrot("").chat().restore(tmp_path / "saved")


def test_what_cannot_be_restored_leaves_the_present_conversation(tmp_path: Path) -> None:
    chat = Parrot("a boat###").chat()
    chat.ask("What?")
    before = chat.history
    with pytest.raises(ConfigError, match=r"conversation\.json: no conversation here"):
        chat.restore(tmp_path)
    assert chat.history == before


def broken(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> Path:
    chat = Parrot("a boat###").chat()
    chat.upload(GREY)
    chat.ask("What?")
    chat.save(tmp_path)
    file = tmp_path / "conversation.json"
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tree: tree.update(format="other"), "format is 'other', expected"),
        (lambda tree: tree.pop("rounds"), "not a whole conversation .*'rounds'"),
        (lambda tree: tree["settings"].update(colour="red"), "not a whole conversation .*colour"),
        (lambda tree: tree["settings"].update(max_new_tokens=0), "max_new_tokens is 0"),
        (lambda tree: tree["rounds"][0]["question"][0].update(medium=5), "not a whole"),
        (lambda tree: tree["rounds"][0]["question"][0].update(medium="x"), "not a whole"),
        (lambda tree: tree["rounds"][0].update(question=3), "not a whole"),
        (lambda tree: tree["media"][0].update(start_s="soon"), "not a whole"),
        (lambda tree: tree["media"][0].update(fps=-1.0), "fps: -1"),
        (lambda tree: tree["media"][0].update(frames=2.5), "frames is 2.5"),
        (lambda tree: tree["settings"].update(max_new_tokens=2.5), "max_new_tokens is 2.5"),
        (lambda tree: tree["settings"].update(temperature="hot"), "temperature is 'hot'"),
        (lambda tree: tree.update(media=None), "not a whole"),
    ],
)
def test_a_damaged_conversation_is_an_error_naming_the_file(
    change: Callable[[dict[str, Any]], None], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        Parrot("").chat().restore(broken(change, tmp_path))
    assert "conversation.json" in str(caught.value)


def test_text_that_is_no_json_is_an_error_naming_the_file(tmp_path: Path) -> None:
    (tmp_path / "conversation.json").write_text("{")
    with pytest.raises(ConfigError, match=r"conversation\.json: not valid JSON"):
        Parrot("").chat().restore(tmp_path)


def test_a_stored_medium_is_looked_for_in_the_folder_alone(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    GREY.save(secret)
    folder = tmp_path / "saved"
    broken(lambda tree: tree["media"][0].update(stored="../../secret.png"), folder)
    with pytest.raises(MediaError, match="saved/media/secret.png: cannot be read"):
        Parrot("").chat().restore(folder)


def fill_disk(monkeypatch: pytest.MonkeyPatch, *, names: str) -> None:
    """Let files whose name matches be written by half."""
    whole = Path.write_bytes

    def half(self: Path, content: bytes) -> int:
        if not re.search(names, self.name):
            return whole(self, content)
        whole(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", half)


@pytest.mark.parametrize("names", ["json", "^[0-9a-f]{32}"])
def test_a_conversation_that_is_there_stays_whole_if_it_cannot_be_replaced(
    names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Parrot("a boat###").chat()
    chat.upload(GREY)
    chat.ask("One?")
    chat.save(tmp_path)
    before = chat.history
    chat.upload(Image.new("RGB", (8, 8)))
    chat.ask("Two?")
    fill_disk(monkeypatch, names=names)
    with pytest.raises(VideoLlamaError, match="No space left on device; .* GiB free"):
        chat.save(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    chat.restore(tmp_path)
    assert chat.history == before


def test_a_medium_that_is_there_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Parrot("a boat###").chat()
    chat.upload(GREY)
    chat.save(tmp_path)
    fill_disk(monkeypatch, names="^[0-9a-f]{32}")
    chat.save(tmp_path)
    chat.restore(tmp_path)
    assert len(chat.uploads) == 1


def test_a_damaged_medium_is_written_again(tmp_path: Path) -> None:
    chat = Parrot("a boat###").chat()
    chat.upload(GREY)
    chat.save(tmp_path)
    (medium,) = (tmp_path / "media").iterdir()
    content = medium.read_bytes()
    medium.write_bytes(bytes(len(content)))
    chat.save(tmp_path)
    assert medium.read_bytes() == content


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("127.0.0.1")
    for folder in (file, file / "below"):
        with pytest.raises(VideoLlamaError, match="hosts.*: the conversation cannot be written"):
            Parrot("").chat().save(folder)
    assert file.read_text() == "127.0.0.1"
