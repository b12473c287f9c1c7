from __future__ import annotations

import json
import logging

import pytest
import torch
from released_decoders import (
    WORDS,
    billa_release,
    tiny_llama,
    tuned,
    vicuna_delta,
    write_hf,
    write_meta,
    ziya_delta,
)

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.schema import PartConfig
from video_llama.models.decoders import deltas, readiness
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.decoders.merging import Merge, merge_directories
from video_llama.models.decoders.readiness import why_not_ready


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


def open_decoder(folder, **settings):
    config = CausalLM.Config(**settings)
    return CausalLM(PartConfig(type="causal_lm", config=config, weights=str(folder)))


@pytest.mark.parametrize(("make", "grown"), [(vicuna_delta, 1), (ziya_delta, 24)])
def test_a_delta_is_refused_with_the_command_that_merges_it(llama, tmp_path, make, grown):
    target = tuned(llama, words=WORDS + grown)
    folder = write_hf(tmp_path / "any-name", make(llama, target), config=target.config)
    with pytest.raises(CheckpointMismatch, match="a delta, not a model") as caught:
        open_decoder(folder)
    assert f"python apply_delta.py --base LLAMA --target {folder}-merged --delta {folder}" in str(
        caught.value
    )


def test_what_merging_made_of_it_is_accepted(llama, tmp_path):
    target = tuned(llama, words=WORDS + 1)
    base = write_hf(tmp_path / "llama", llama.state_dict(), config=llama.config)
    delta = write_hf(tmp_path / "delta", vicuna_delta(llama, target), config=target.config)
    merge_directories(Merge(base, delta, tmp_path / "out"), on_bytes=lambda done, total: None)
    assert why_not_ready(tmp_path / "out") is None
    assert open_decoder(tmp_path / "out").vocab_size == WORDS + 1


def test_a_name_that_says_delta_proves_nothing(llama, tmp_path):
    folder = write_hf(tmp_path / "vicuna-7b-delta-v0", llama.state_dict(), config=llama.config)
    config = json.loads((folder / "config.json").read_text())
    config["_name_or_path"] = "lmsys/vicuna-7b-delta-v0"
    (folder / "config.json").write_text(json.dumps(config))
    assert why_not_ready(folder) is None


def test_models_whose_norm_weights_are_counted_from_one_are_left_alone(llama, tmp_path):
    target = tuned(llama, words=WORDS + 1)
    # Gemma stores norm weights minus one, so they lie around zero.
    state = vicuna_delta(llama, target)
    config = target.config.to_dict() | {"model_type": "gemma"}
    folder = write_hf(tmp_path / "gemma", state, config=target.config)
    (folder / "config.json").write_text(json.dumps(config))
    assert why_not_ready(folder) is None


def test_metas_files_are_refused_with_the_command_that_converts_them(llama, tmp_path):
    folder = write_meta(tmp_path / "13B", llama.state_dict(), num_files=2)
    with pytest.raises(CheckpointMismatch, match=r"Meta's own files \(consolidated") as caught:
        open_decoder(folder)
    assert (
        "python -m transformers.models.llama.convert_llama_weights_to_hf "
        f"--input_dir {folder} --num_shards 2 --output_dir {folder}-hf"
    ) in str(caught.value)
    assert "copy tokenizer.model into it" in str(caught.value)


def test_converted_files_beside_metas_own_are_used(llama, tmp_path):
    folder = write_hf(tmp_path / "both", llama.state_dict(), config=llama.config)
    torch.save({}, folder / "consolidated.00.pth")
    assert why_not_ready(folder) is None


class TestBilla:
    """At BiLLa's own number of words, one number wide; the published sum is that of the target."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        ours = tiny_llama(words=32_000, width=2)
        target = tuned(ours, words=deltas.BILLA_WORDS)
        total = deltas.embedding_sum(target.get_input_embeddings().weight.detach())
        monkeypatch.setattr(deltas, "BILLA_SUM", total)
        self.base = write_hf(tmp_path / "llama", ours.state_dict(), config=ours.config)
        release = billa_release(ours, target)
        return write_hf(tmp_path / "BiLLa-7B-SFT", release, config=target.config)

    def test_as_released_it_is_refused_with_the_command(self, folder):
        reason = why_not_ready(folder)
        assert reason is not None
        assert "BiLLa's vocabulary (46,943 words)" in reason
        assert f"--delta {folder}" in reason

    def test_merged_it_is_accepted_also_without_its_papers(self, folder, tmp_path):
        out = tmp_path / "out"
        merge = Merge(self.base, folder, out)
        assert merge_directories(merge, on_bytes=lambda done, total: None) == "billa"
        assert why_not_ready(out) is None
        (out / readiness.MERGE_FILE).unlink()
        assert why_not_ready(out) is None

    def test_its_own_script_leaves_a_backup_that_counts(self, folder):
        file = next(folder.glob("*.bin"))
        file.with_name(file.name + ".backup-1684300000").write_bytes(b"")
        assert why_not_ready(folder) is None

    def test_a_person_can_vouch_for_it(self, folder):
        (folder / readiness.MERGE_FILE).write_text('{"rule": "billa"}')
        assert why_not_ready(folder) is None

    def test_a_base_of_another_family_is_noticed(self, folder, tmp_path, caplog):
        other = tiny_llama(words=32_000, width=2, seed=5)
        base = write_hf(tmp_path / "llama-2", other.state_dict(), config=other.config)
        merge = Merge(base, folder, tmp_path / "out")
        with caplog.at_level(logging.WARNING, logger="video_llama"):
            merge_directories(merge, on_bytes=lambda done, total: None)
        assert "the restored embedding does not add up" in caplog.text


@pytest.mark.parametrize("wanted", [WORDS, WORDS + 1])
def test_a_vocabulary_the_preset_was_not_made_for_is_told(llama, tmp_path, caplog, wanted):
    folder = write_hf(tmp_path / "llama", llama.state_dict(), config=llama.config)
    architecture = {"model_type": "llama", "vocab_size": wanted}
    with caplog.at_level(logging.WARNING, logger="video_llama"):
        assert open_decoder(folder, architecture=architecture).vocab_size == WORDS
    assert ("1,000 words, the preset expects 1,001" in caplog.text) == (wanted != WORDS)


def test_what_is_missing_is_left_to_the_loader(tmp_path):
    assert why_not_ready(tmp_path / "nowhere") is None
    assert why_not_ready(tmp_path) is None
