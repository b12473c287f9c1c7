import sys
from dataclasses import replace

import numpy as np
import pytest
from made_branches import VIDEO as TINY
from made_media import write_clip

from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config, ModelConfig, PartConfig, RunConfig
from video_llama.common.types import MediaItem
from video_llama.processors.media import MediaLoader, Request
from video_llama.runners.data import open_encoder

# Of 32 pixels, as the others have, decord is not capable.
VIDEO = replace(TINY, spec=replace(TINY.spec, image_size=40))


@pytest.fixture
def clip(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 80, 80, 3), dtype=np.uint8)
    return MediaItem("video", str(write_clip(tmp_path / "a.mp4", list(noise))))


def pixels_of(item, *, video_reader, tmp_path):
    """Read as a run with that key does."""
    run = RunConfig(
        task="video_text_pretrain",
        output_dir=str(tmp_path / "run"),
        video_reader=video_reader,
        decode_timeout_s=None,
    )
    decoder = PartConfig(type="none", config=None)
    model = ModelConfig("tiny", "tiny", branches={}, decoder=decoder, template="none")
    config = Config(model=model, datasets={}, run=run)
    encoder = open_encoder(config, specs={"video": VIDEO}, text=None, rank=0)
    return encoder.reader.load_all([Request(item, "video")])[0].pixels


@pytest.mark.parametrize("video_reader", ["pyav", "decord"])
def test_a_run_decodes_by_the_reader_it_names(clip, tmp_path, video_reader):
    if video_reader == "decord":
        pytest.importorskip("decord", reason="decord2 is part of the extra 'train'")
    loader = MediaLoader({"video": VIDEO}, reader=video_reader)
    expected = loader.load(clip, branch="video").pixels
    found = pixels_of(clip, video_reader=video_reader, tmp_path=tmp_path)
    np.testing.assert_array_equal(found, expected)
    if video_reader == "decord":
        assert not np.array_equal(pixels_of(clip, video_reader="pyav", tmp_path=tmp_path), found)


def test_a_reader_that_is_not_installed_is_no_fault_of_the_clip(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ConfigError, match="pip install decord2"):
        pixels_of(clip, video_reader="decord", tmp_path=tmp_path)
