from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.weights import load_weights, read_state
from video_llama.models.encoders.hf_audio import HfAudio

WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "num_mel_bins": 80,
    "max_source_positions": 100,
    "vocab_size": 30,
    "pad_token_id": 0,
}
AST = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_mel_bins": 40,
    "max_length": 96,
    "patch_size": 16,
}
CLAP = {
    "patch_embeds_hidden_size": 8,
    "depths": [1, 1],
    "num_attention_heads": [2, 2],
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "spec_size": 64,
    "num_mel_bins": 16,
    "window_size": 4,
}
SIZES = {"whisper": WHISPER, "ast": AST, "clap": CLAP}
CLIP_S = {"whisper": None, "ast": None, "clap": 1.0}


def twin_of(family):
    """The whole published model with random weights."""
    torch.manual_seed(0)
    if family == "whisper":
        model = WhisperForConditionalGeneration(WhisperConfig(**WHISPER))
    elif family == "ast":
        model = ASTForAudioClassification(ASTConfig(**AST, num_labels=3))
    else:
        text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        audio = {**CLAP, "projection_dim": 8}
        model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8))
    for parameter in model.parameters():
        if parameter.ndim:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model.eval()


@pytest.fixture(scope="module")
def twins():
    return {family: twin_of(family) for family in SIZES}


@pytest.fixture(scope="module")
def folders(twins, tmp_path_factory):
    """Every twin as transformers saves it."""
    made = {}
    for family, twin in twins.items():
        made[family] = tmp_path_factory.mktemp(family)
        twin.save_pretrained(made[family])
    return made


def loaded(folder, family, **keys) -> HfAudio:
    keys = {"architecture": str(folder), "clip_s": CLIP_S[family], **keys}
    with torch.device("meta"):
        encoder = HfAudio(HfAudio.Config(family=family, **keys))
    state = read_state(folder)
    load_weights(encoder, state, key_map=encoder.key_map(), source=str(folder))
    return encoder.eval()


def heard_by_the_twin(twins, family, wave):
    """What transformers' own feature extractor and model make of a sound, as [N, D]."""
    twin = twins[family]
    with torch.no_grad():
        if family == "whisper":
            extractor = WhisperFeatureExtractor(chunk_length=2)
            mel = extractor(wave, sampling_rate=16000, return_tensors="pt").input_features
            return twin.model.encoder(mel).last_hidden_state[0]
        if family == "ast":
            extractor = ASTFeatureExtractor(num_mel_bins=40, max_length=96)
            mel = extractor(wave, sampling_rate=16000, return_tensors="pt").input_values
            return twin.audio_spectrogram_transformer(mel).last_hidden_state[0, 2:]
        extractor = ClapFeatureExtractor(
            feature_size=16, max_length_s=1, frequency_min=50, truncation="rand_trunc"
        )
        mel = extractor(wave, sampling_rate=48000, return_tensors="pt").input_features
        return twin.audio_model(mel.float()).last_hidden_state[0].flatten(1).T


def mel_by_us(encoder, wave):
    from video_llama.processors.audio import log_mel

    return log_mel(torch.from_numpy(wave), encoder.config.media_spec())


def sound(duration_s, rate_hz):
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    wave = 0.4 * np.sin(2 * np.pi * (300 + 400 * times_s) * times_s)
    noise = np.random.default_rng(1).normal(0, 0.02, len(times_s))
    return (wave + noise).astype(np.float32)


@pytest.mark.parametrize("duration_s", [0.4, 0.95])
@pytest.mark.parametrize("family", SIZES)
def test_from_a_sound_to_tokens_it_is_transformers_model(folders, twins, family, duration_s):
    encoder = loaded(folders[family], family)
    wave = sound(duration_s, encoder.config.media_spec().sample_rate_hz)
    mels = mel_by_us(encoder, wave)
    assert len(mels) == 1
    with torch.no_grad():
        found = encoder(mels[None], torch.ones(1, 1, dtype=torch.bool))
    expected = heard_by_the_twin(twins, family, wave)
    torch.testing.assert_close(found.tokens[0, 0], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", SIZES)
def test_a_directory_and_its_keys_give_the_same_config(folders, family):
    by_folder = HfAudio.Config(family, str(folders[family]), clip_s=CLIP_S[family])
    by_keys = HfAudio.Config(family, SIZES[family], clip_s=CLIP_S[family])
    assert by_folder.out_shape(1) == by_keys.out_shape(1)
    assert by_folder.media_spec() == by_keys.media_spec()
    assert isinstance(by_folder.architecture, dict)
    json.dumps(by_folder.architecture)


def test_published_sizes_give_the_published_numbers_of_tokens():
    # Whisper large-v3, AST of AudioSet and CLAP's HTSAT, from their config.json files.
    large = {"d_model": 1280, "num_mel_bins": 128, "encoder_layers": 32}
    whisper = HfAudio.Config("whisper", {**large, "encoder_attention_heads": 20})
    assert whisper.out_shape(1).num_slots == 1500
    assert whisper.media_spec().step_shape == (1, 128, 3000)
    ast = HfAudio.Config("ast", {"num_mel_bins": 128, "max_length": 1024})
    assert ast.out_shape(1).num_slots == 12 * 101
    clap = HfAudio.Config("clap")
    assert (clap.out_shape(1).num_slots, clap.out_shape(1).width) == (2 * 32, 768)
    assert clap.media_spec().step_shape == (1, 64, 1001)


@pytest.mark.parametrize("family", SIZES)
def test_tokens_are_averaged_over_frequency_and_neighbours_in_time(folders, family):
    whole = loaded(folders[family], family)
    few = loaded(folders[family], family, num_tokens=4)
    mels = torch.randn(1, 2, *whole.config.media_spec().step_shape)
    mask = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        all_tokens, some = whole(mels, mask), few(mels, mask)
    rows, columns = all_tokens.grid
    grid = all_tokens.tokens.unflatten(2, (rows, columns))
    edges = [(i * columns // 4, -(-(i + 1) * columns // 4)) for i in range(4)]
    expected = [grid[:, :, :, a:b].mean(dim=(2, 3)) for a, b in edges]
    torch.testing.assert_close(some.tokens, torch.stack(expected, dim=2), atol=1e-5, rtol=1e-4)
    assert some.grid is None
    assert few.config.out_shape(2).num_slots == 8


def test_shorter_clips_use_the_first_positions_of_whisper(folders, twins):
    encoder = loaded(folders["whisper"], "whisper", clip_s=0.5)
    assert encoder.config.out_shape(1).num_tokens == 25
    mine, whole = encoder.trunk.embed_positions.weight, twins["whisper"].model.encoder
    assert torch.equal(mine, whole.embed_positions.weight[:25])


@pytest.mark.parametrize("family", SIZES)
def test_low_precision_weights_keep_norms_and_output_in_float32(folders, family):
    exact, rough = (loaded(folders[family], family, dtype=d) for d in ("float32", "bfloat16"))
    mels = torch.randn(1, 1, *exact.config.media_spec().step_shape)
    mask = torch.ones(1, 1, dtype=torch.bool)
    with torch.no_grad():
        tokens, expected = rough(mels, mask).tokens, exact(mels, mask).tokens
    assert tokens.dtype is torch.float32
    kinds = {type(m).__name__: p.dtype for m in rough.modules() for p in m.parameters(False)}
    assert (kinds["Linear"], kinds["LayerNorm"]) == (torch.bfloat16, torch.float32)
    assert 0 < (tokens - expected).norm() / expected.norm() < 0.05


def test_names_on_the_hub_of_ast_are_read_too(folders):
    hub = dict(read_state(folders["ast"]))
    assert any(".encoder.layer.0.attention.attention.query" in name for name in hub)
    encoder = loaded(folders["ast"], "ast")
    memory = {name.removeprefix("trunk."): t for name, t in encoder.state_dict().items()}
    again = HfAudio(encoder.config)
    report = load_weights(again, memory, key_map=again.key_map(), source="memory")
    assert report.matched == len(memory)


def test_a_file_of_another_family_is_refused(folders):
    encoder = HfAudio(HfAudio.Config("ast", AST))
    with pytest.raises(CheckpointMismatch, match="does not fit"):
        load_weights(encoder, read_state(folders["clap"]), key_map=encoder.key_map(), source="clap")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"family": "whisper", "architecture": {"d_modle": 3}}, "no key 'd_modle'.*'d_model'"),
        ({"family": "whisper", "clip_s": 31.0}, "at most 30 s.*found 31"),
        ({"family": "whisper", "clip_s": 0.01}, "multiple of 0.02 s"),
        ({"family": "ast", "clip_s": 11.0}, "at most 10.26 s for an ast of max_length 1024"),
        ({"family": "clap", "clip_s": 11.0}, "at most 10.23 s for a clap"),
        ({"family": "clap", "architecture": {"spec_size": 128}}, "at most 2.55 s .* found 10"),
        ({"family": "clap", "architecture": {"enable_fusion": True}}, "enable_fusion must be fal"),
        ({"family": "ast", "num_clips": 0}, "num_clips must be at least 1"),
        ({"family": "ast", "clip_s": -1.0}, "clip_s must be above 0"),
        ({"family": "clap", "num_tokens": 33}, "num_tokens must be from 1 to 32.*found 33"),
        ({"family": "clap", "architecture": "nowhere"}, "nowhere cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        HfAudio.Config(**keys)


def test_a_directory_of_another_model_is_refused(folders):
    with pytest.raises(ValueError, match="of a model of type 'clap', expected whisper"):
        HfAudio.Config("whisper", str(folders["clap"]))
