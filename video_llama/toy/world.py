"""Writes a toy world as real files, in the layouts of the real data sets.

    OUT/world.json                          what it was made with
    OUT/scenes.jsonl                        ground truth of every clip and picture
    OUT/videos/{page_dir}/{key}.mp4         clips of all splits, H.264 with an AAC mono track
    OUT/webvid/{visual,sound,joint}/{train,valid}.csv
    OUT/videochat_instruct/{visual,sound,joint,cross_modal}/{train,valid}.json
    OUT/pictures/{train,valid}/image/{key}.jpg
    OUT/pictures/{train,valid}/{filter_cap,llava_instruct}.json
    OUT/questions/{valid,test,composition}/{visual,sound,joint}/questions.json
    OUT/questions/{test,composition}/{visual,sound,joint}/ceilings.json
    OUT/voices/sound/{key}.wav, OUT/voices/{questions,ceilings}.json

Clips come in chunks of 100, a folder each; a finished folder is never made twice, so a killed
run goes on where it was, and clips that are needed later can be written later. Equal arguments
give equal annotations and equal decoded frames.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import multiprocessing
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.whole_files import write_whole
from video_llama.toy import annotations as said
from video_llama.toy import plan
from video_llama.toy.ceilings import Media, ceilings_by_kind, write_shipped
from video_llama.toy.codec import encode_mp4, write_jpg, write_wav
from video_llama.toy.plan import ASKED_SPLITS, HELD_OUT_SPLITS, MIXES, Clip, Counts, Split, Voice
from video_llama.toy.questions import KINDS, MULTIPLE_CHOICE_KINDS, needs_of
from video_llama.toy.render import FRAMES_PER_S, render_clip, render_frames
from video_llama.toy.scenes import MIRROR_S, Scene
from video_llama.toy.sound import SAMPLE_RATE_HZ, synthesize, voice

FORMAT = 3
"""Raised whenever the same arguments would give another world."""

MANIFEST = "world.json"
SCENES = "scenes.jsonl"
"""Written after all other text, so that where it is, all text is."""

LEARNED_SPLITS = ("train", "valid")
CLIP_SPLITS = (*LEARNED_SPLITS, *HELD_OUT_SPLITS)

_CEILING_MEDIA: Mapping[str, Media] = {"visual": "video", "sound": "audio", "joint": "both"}


@dataclass(frozen=True)
class World:
    """A world on disk.

    Attributes:
        folder: its root.
        num_clips: of each split, also of those that are left for later.
        was_there: nothing had to be done.
    """

    folder: Path
    num_clips: Mapping[str, int]
    was_there: bool = False


def write_world(
    folder: Path,
    *,
    seed: int = 0,
    counts: Counts | None = None,
    num_workers: int = 2,
    later: Collection[str] = (),
) -> World:
    """Write a world, or what is missing of it.

    Args:
        folder: made if need be.
        seed: of everything in it.
        counts: how much it shall hold; None for the full world.
        num_workers: processes that draw and encode; 1 works in this one.
        later: splits whose clips are left to a call without them; the manifest names them.

    Raises:
        ConfigError: the folder holds another world.
    """
    counts = counts or Counts()
    arguments = {"format": FORMAT, "seed": seed, "counts": asdict(counts)}
    manifest = folder / MANIFEST
    found = _read_manifest(manifest, arguments=arguments)
    left = CLIP_SPLITS if found is None else found["later"]
    if found is not None and set(left) <= set(later):
        get_logger().info("%s: the world is there already", folder)
        return World(folder, found["clips"], was_there=True)
    if found is None:
        _write_json(manifest, arguments)
    now = [split for split in left if split not in later]
    sample = cache(partial(plan.sample_split, counts=counts, seed=seed))
    still = LEARNED_SPLITS if found is None else ()
    stills = {split: plan.still_scenes(split, counts=counts, seed=seed) for split in still}
    voices = plan.voices(counts=counts, seed=seed) if still else []

    def write_texts() -> None:
        if found is None and not (folder / SCENES).exists():
            for split in ASKED_SPLITS:
                _write_questions(folder / "questions" / split, content=sample(split), split=split)
            clips = {split: sample(split).clips for split in CLIP_SPLITS}
            _write_annotations(folder, clips=clips, stills=stills, voices=voices)

    clips = itertools.chain.from_iterable(sample(split).clips for split in now)
    jobs = _media_jobs(folder, clips=clips, stills=stills, voices=voices)
    _run(jobs, num_workers=num_workers, meanwhile=write_texts)
    num_clips = found["clips"] if found else {s: len(sample(s).clips) for s in CLIP_SPLITS}
    late = [split for split in left if split in later]
    _write_json(manifest, {**arguments, "clips": num_clips, "later": late})
    get_logger().info("%s: clips are there: %s", folder, ", ".join(now))
    return World(folder, num_clips)


def _read_manifest(path: Path, *, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is said of a world that lacks nothing but clips left for later, else None.

    Raises:
        ConfigError: the folder belongs to another world, or to something else.
    """
    if not path.exists():
        if path.parent.exists() and any(path.parent.iterdir()):
            raise ConfigError(
                f"the folder is not empty and holds no {MANIFEST}; choose another --out",
                where=str(path.parent),
            )
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    differences = [
        f"{key}: the folder has {found.get(key)}, asked for is {wanted}"
        for key, wanted in arguments.items()
        if found.get(key) != wanted
    ]
    if differences:
        raise ConfigError(
            [*differences, "take another --out, or delete it and its runs"], where=str(path.parent)
        )
    return found if "clips" in found else None


@dataclass(frozen=True)
class _Job:
    """A file or folder to be written, and how many files that is."""

    target: Path
    write: Callable[[], None]
    size: int


def _media_jobs(
    folder: Path,
    *,
    clips: Iterable[Clip],
    stills: dict[str, list[Scene]],
    voices: Sequence[Voice],
) -> Iterator[_Job]:
    """List the folders of pictures, voices and clips."""
    for split, scenes in stills.items():
        target = folder / "pictures" / split / "image"
        yield _Job(target, partial(write_pictures, target, scenes=scenes), len(scenes))
    if voices:
        target = folder / "voices" / "sound"
        yield _Job(target, partial(write_voices, target, voices=voices), len(voices))
    # Last, since they take the longest to sample: others draw what is listed before meanwhile.
    for page, group in itertools.groupby(clips, key=lambda clip: clip.page_dir):
        target = folder / "videos" / page
        scenes = [clip.scene for clip in group]
        yield _Job(target, partial(write_clips, target, scenes=scenes), len(scenes))


def _write_questions(folder: Path, *, content: Split, split: str) -> None:
    """Write the questions of a split, and how well they can be answered without some media."""
    rows = said.question_rows(content.clips, asked=content.asked)
    for streams in said.STREAMS:
        answerable = said.answerable(rows, streams=streams)
        _write_rows(folder / streams / "questions.json", answerable)
        if split in HELD_OUT_SPLITS:
            kinds = tuple(sorted({row["kind"] for row in answerable}))
            media = _CEILING_MEDIA[streams]
            ceilings = ceilings_by_kind(kinds, mix=MIXES[split], split=split, media=media)
            _write_json(folder / streams / "ceilings.json", ceilings)


def _run(jobs: Iterable[_Job], *, num_workers: int, meanwhile: Callable[[], None]) -> None:
    """Do the jobs whose target is missing, in several processes, and show how far they are.

    Args:
        jobs: of this call; each is begun as soon as it is listed.
        num_workers: processes beside this one; 1 works in this one.
        meanwhile: is done here while the others work.
    """
    columns = (TextColumn("toy world"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("files", total=0)

        def missing() -> Iterator[_Job]:
            total = 0
            for job in jobs:
                total += job.size
                progress.update(bar, total=total, advance=job.size * job.target.exists())
                if not job.target.exists():
                    yield job

        if num_workers == 1:
            meanwhile()
            for job in list(missing()):
                job.write()
                progress.advance(bar, job.size)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
            try:
                sizes = {pool.submit(job.write): job.size for job in missing()}
                meanwhile()
                for future in as_completed(sizes):
                    future.result()
                    progress.advance(bar, sizes[future])
            except BaseException:
                # Begun folders are finished or left as .part; the others are not begun.
                pool.shutdown(cancel_futures=True)
                raise


def write_clips(target: Path, *, scenes: Sequence[Scene]) -> None:
    """Write a folder of clips, all or nothing."""
    with _whole_folder(target) as part:
        for scene in scenes:
            mp4 = encode_mp4(
                render_clip(scene),
                frames_per_s=FRAMES_PER_S,
                waveform=synthesize(scene.sound),
                sample_rate_hz=SAMPLE_RATE_HZ,
            )
            (part / f"{scene.key}.mp4").write_bytes(mp4)


def write_pictures(target: Path, *, scenes: Sequence[Scene]) -> None:
    """Write a folder of pictures, all or nothing."""
    with _whole_folder(target) as part:
        for scene in scenes:
            write_jpg(part / f"{scene.key}.jpg", render_frames(scene, times_s=(MIRROR_S,))[0])


def write_voices(target: Path, *, voices: Sequence[Voice]) -> None:
    """Write a folder of voices, all or nothing."""
    with _whole_folder(target) as part:
        for each in voices:
            wave = voice(shape=each.shape, colour=each.colour, seed=each.seed)
            write_wav(part / f"{each.key}.wav", wave, sample_rate_hz=SAMPLE_RATE_HZ)


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill, and put it in place once it is full."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    part.rename(target)


def _write_annotations(
    folder: Path,
    *,
    clips: Mapping[str, Sequence[Clip]],
    stills: dict[str, list[Scene]],
    voices: Sequence[Voice],
) -> None:
    """Write every text file of the world but the held-out questions; the scenes come last."""
    for split in LEARNED_SPLITS:
        asked = [said.ask_to_learn(clip.scene) for clip in clips[split]]
        for streams in said.STREAMS:
            rows = said.webvid_rows(clips[split], streams=streams)
            _write_csv(folder / "webvid" / streams / f"{split}.csv", rows)
            turns = said.videochat_rows(clips[split], asked, streams=streams)
            _write_rows(folder / "videochat_instruct" / streams / f"{split}.json", turns)
        both = said.cross_modal_rows(clips[split], asked)
        _write_rows(folder / "videochat_instruct" / "cross_modal" / f"{split}.json", both)
        pictures = folder / "pictures" / split
        _write_json(pictures / "filter_cap.json", said.picture_captions(stills[split]))
        _write_rows(pictures / "llava_instruct.json", said.llava_rows(stills[split]))
    _write_rows(folder / "voices" / "questions.json", said.voice_rows(voices))
    _write_json(folder / "voices" / "ceilings.json", said.voice_ceilings())
    scenes = [clip.scene for group in clips.values() for clip in group]
    scenes += [scene for group in stills.values() for scene in group]
    write_whole(folder / SCENES, "".join(said.scene_row(s) + "\n" for s in scenes))


def compute_ceilings() -> None:
    """Compute the ceilings that ship with the package anew; it takes minutes."""
    choices = [f"{form}_{kind}" for form in ("mc", "letter") for kind in MULTIPLE_CHOICE_KINDS]
    write_shipped(
        (
            [kind for kind in (*KINDS, *choices) if set(needs_of(kind)) <= set(streams)],
            MIXES[split],
            split,
            _CEILING_MEDIA[name],
        )
        for split in HELD_OUT_SPLITS
        for name, streams in said.STREAMS.items()
    )


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows with WebVid's columns."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=("videoid", "name", "page_dir"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, table.getvalue())


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a list as JSON with one row per line."""
    write_whole(path, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1) + "\n")
