from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_media import GOLDENS, shade, tone
from torchaudio.compliance.kaldi import fbank

from video_llama.common.errors import MediaError
from video_llama.common.types import AudioSpec
from video_llama.processors.audio import CLIP_POLICIES, clip_starts, log_mel, read_audio
from video_llama.processors.tracks import Track

MEAN, STD = -4.268, 9.138


def imagebind_spec(num_clips):
    return AudioSpec(
        num_clips=num_clips,
        clip_s=2.0,
        sample_rate_hz=16000,
        num_mel_bins=128,
        num_mel_frames=204,
        mean=MEAN,
        std=STD,
    )


TOY = AudioSpec(
    num_clips=8,
    clip_s=0.25,
    sample_rate_hz=16000,
    num_mel_bins=64,
    num_mel_frames=25,
    mean=MEAN,
    std=STD,
    clip_policy="consecutive",
)


def loudest_hz(waveform, rate_hz=16000):
    spectrum = np.abs(np.fft.rfft(waveform.numpy()))
    return float(np.fft.rfftfreq(len(waveform), 1 / rate_hz)[spectrum.argmax()])


class TestClipStarts:
    def test_clips_minus_one_reaches_the_end(self):
        starts = clip_starts(9.0, num_clips=8, clip_s=2.0, policy="clips_minus_one")
        assert starts == tuple(Fraction(i) for i in range(8))

    def test_consecutive_tiles_the_track(self):
        starts = clip_starts(2.0, num_clips=8, clip_s=0.25, policy="consecutive")
        assert starts == tuple(Fraction(i, 4) for i in range(8))

    def test_consecutive_gives_a_short_sound_fewer_clips(self):
        assert len(clip_starts(0.6, num_clips=8, clip_s=0.25, policy="consecutive")) == 3

    @given(
        duration_s=st.floats(0.001, 3600),
        num_clips=st.integers(1, 32),
        clip_s=st.sampled_from([0.25, 1.0, 2.0]),
        policy=st.sampled_from(sorted(CLIP_POLICIES)),
    )
    def test_starts_are_ordered_and_inside_the_track(self, duration_s, num_clips, clip_s, policy):
        starts = clip_starts(duration_s, num_clips=num_clips, clip_s=clip_s, policy=policy)
        assert 1 <= len(starts) <= num_clips
        assert starts[0] == 0
        assert list(starts) == sorted(starts)
        assert starts[-1] < duration_s

    def test_an_unknown_policy_lists_the_known_ones(self):
        with pytest.raises(ValueError, match="clips_minus_one"):
            clip_starts(2.0, num_clips=8, clip_s=2.0, policy="uniform")


class TestLogMel:
    def test_a_mix_is_heard_where_the_first_channel_is_as_published(self):
        path = GOLDENS / "44k_stereo_2p2s.flac"
        mixed = read_audio(path, sample_rate_hz=16000)
        separate = read_audio(path, sample_rate_hz=16000, channels="separate")
        torch.testing.assert_close(mixed, separate.mean(dim=0), atol=1e-6, rtol=0)
        first = log_mel(separate[0], imagebind_spec(3))
        torch.testing.assert_close(log_mel(separate, imagebind_spec(3)), first, atol=0.1, rtol=0)
        assert not torch.allclose(log_mel(mixed, imagebind_spec(3)), first, atol=0.1)

    @pytest.mark.parametrize("rule", ["copy", "in_place"])
    def test_the_waveform_is_not_changed(self, rule):
        waveform = torch.from_numpy(tone()) + 0.25
        before = waveform.clone()
        log_mel(waveform, imagebind_spec(8), mean_removal=rule)
        assert torch.equal(waveform, before)

    def test_with_copies_a_clip_does_not_depend_on_the_others(self):
        waveform = torch.randn(16000 * 5, generator=torch.Generator().manual_seed(0)) + 0.3
        starts = clip_starts(5.0, num_clips=8, clip_s=2.0)
        together = log_mel(waveform, imagebind_spec(8), starts=starts)
        alone = log_mel(waveform, imagebind_spec(8), starts=starts[5:6])
        assert torch.equal(together[5:6], alone)

    @pytest.mark.parametrize(("spec", "seconds"), [(imagebind_spec(1), 2.0), (TOY, 0.25)])
    def test_it_agrees_with_torchaudios_fbank(self, spec, seconds):
        clip = torch.randn(round(16000 * seconds), generator=torch.Generator().manual_seed(1)) / 8
        reference = fbank(
            (clip - clip.mean())[None],
            htk_compat=True,
            sample_frequency=16000,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=spec.num_mel_bins,
            dither=0.0,
            frame_length=25,
            frame_shift=10,
        )
        mel = log_mel(clip, spec)[0, 0].T * STD + MEAN
        torch.testing.assert_close(mel[: len(reference)], reference, atol=1e-4, rtol=0)

    def test_a_quarter_second_has_23_frames_and_two_of_padding(self):
        """1 + (4000 - 400) // 160 = 23; padding is zero before the normalisation."""
        mel = log_mel(torch.from_numpy(tone()), TOY)
        assert mel.shape == (8, 1, 64, 25)
        padding = torch.full((8, 1, 64, 2), (0.0 - MEAN) / STD)
        torch.testing.assert_close(mel[..., 23:], padding)
        assert not torch.isclose(mel[..., 22], padding[..., 0]).all()

    @pytest.mark.parametrize("num_samples", [1, 100, 399, 400, 4000])
    def test_a_sound_of_any_length_gives_finite_pictures(self, num_samples):
        mel = log_mel(torch.ones(num_samples), imagebind_spec(2))
        assert mel.shape == (2, 1, 128, 204)
        assert mel.isfinite().all()

    def test_silence_lies_at_the_floor_of_float32(self):
        mel = log_mel(torch.zeros(32000), imagebind_spec(1))
        floor = (np.log(np.finfo(np.float32).eps) - MEAN) / STD
        assert float(mel[0, 0, 5, 100]) == pytest.approx(floor, abs=1e-5)


class TestReadAudio:
    @pytest.mark.parametrize("name", ["a.mp4", "a.m4a", "a.mov"])
    def test_the_padding_of_aac_is_cut(self, make_clip, name):
        pictures = None if name == "a.m4a" else [shade(i) for i in range(16)]
        waveform = read_audio(make_clip(name, pictures, sound=tone()), sample_rate_hz=16000)
        assert len(waveform) == 32000
        assert loudest_hz(waveform) == pytest.approx(440, abs=1)

    def test_a_wav_comes_back_to_the_last_sample(self, make_clip):
        samples = tone()
        path = make_clip("a.wav", sound=samples, codecs=("", "pcm_s16le"))
        waveform = read_audio(path, sample_rate_hz=16000).numpy()
        np.testing.assert_allclose(waveform, samples, atol=1 / 32000)
        assert len(waveform) == len(samples)

    @pytest.mark.parametrize(
        ("codec", "name"),
        [("pcm_f32le", "a.wav"), ("pcm_s32le", "a.wav"), ("pcm_u8", "a.wav"), ("flac", "a.flac")],
    )
    def test_every_sample_format_is_scaled_to_one(self, make_clip, codec, name):
        path = make_clip(name, sound=tone(), codecs=("", codec))
        assert float(read_audio(path, sample_rate_hz=16000).abs().max()) == pytest.approx(
            0.5, abs=0.01
        )

    @pytest.mark.parametrize(
        ("name", "codec"), [("a.ogg", "libopus"), ("a.mp3", "libmp3lame"), ("a.mkv", "aac")]
    )
    def test_other_codecs_keep_the_tone_and_nearly_the_length(self, make_clip, name, codec):
        path = make_clip(name, sound=tone(), codecs=("", codec))
        waveform = read_audio(path, sample_rate_hz=16000)
        assert loudest_hz(waveform) == pytest.approx(440, abs=1)
        assert abs(len(waveform) - 32000) < 2500

    def test_resampling_keeps_pitch_and_length(self, make_clip):
        path = make_clip("a.wav", sound=tone(), codecs=("", "pcm_s16le"))
        waveform = read_audio(path, sample_rate_hz=8000)
        assert len(waveform) == 16000
        assert loudest_hz(waveform, 8000) == pytest.approx(440, abs=1)

    @pytest.mark.parametrize("rate_hz", [16001, 44056, 47952, 99991, 767999])
    def test_an_odd_rate_is_resampled_in_little_memory(self, tmp_path, rate_hz):
        import soundfile

        samples = tone(rate_hz=rate_hz, duration_s=0.5)
        soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype="FLOAT")
        waveform = read_audio(tmp_path / "a.wav", sample_rate_hz=16000)
        assert len(waveform) == pytest.approx(8000, abs=5)
        assert loudest_hz(waveform) == pytest.approx(440, abs=2)

    def test_a_rate_of_a_damaged_header_is_named(self, make_clip):
        content = bytearray(make_clip("a.wav", sound=tone(), codecs=("", "pcm_s16le")).read_bytes())
        rate = content.index((16000).to_bytes(4, "little"))
        content[rate : rate + 4] = (2_000_000_000).to_bytes(4, "little")
        with pytest.raises(MediaError, match="sample rate of 2000000000 Hz"):
            read_audio(bytes(content), sample_rate_hz=16000)

    def test_a_span_is_that_piece_of_the_track(self, make_clip):
        rising = np.linspace(-1, 1, 80000, dtype=np.float32)
        path = make_clip("a.wav", sound=rising, codecs=("", "pcm_s16le"))
        piece = read_audio(path, sample_rate_hz=16000, start_s=3.5, end_s=4.25)
        np.testing.assert_allclose(piece.numpy(), rising[56000:68000], atol=1e-4)

    def test_a_span_of_a_compressed_track_sits_at_its_seconds(self, make_clip):
        silence, beep = np.zeros(48000, np.float32), tone(duration_s=1.0)
        sound = np.concatenate([silence, beep, silence])
        path = make_clip("a.mp4", [shade(0)] * 56, sound=sound)
        assert len(read_audio(path, sample_rate_hz=16000, start_s=3.0, end_s=4.0)) == 16000
        loud = read_audio(path, sample_rate_hz=16000, start_s=3.1, end_s=3.9)
        quiet = read_audio(path, sample_rate_hz=16000, start_s=4.2)
        assert float(loud.abs().max()) > 0.4
        assert float(quiet.abs().max()) < 0.01

    def test_sound_that_sets_in_late_is_preceded_by_silence(self, make_clip):
        path = make_clip("a.mp4", [shade(0)] * 16, sound=tone(duration_s=1.0), sound_pts=8000)
        waveform = read_audio(path, sample_rate_hz=16000)
        assert len(waveform) == pytest.approx(24000, abs=1100)
        assert float(waveform[:6500].abs().max()) < 0.01
        assert float(waveform[9000:10000].abs().max()) > 0.4

    def test_channels_are_mixed_or_kept_apart(self, tmp_path):
        import soundfile

        left, right = tone(), 0 * tone()
        soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000)
        mixed, separate = (
            read_audio(tmp_path / "a.wav", sample_rate_hz=16000, channels=rule)
            for rule in ("mix", "separate")
        )
        np.testing.assert_allclose(separate.numpy(), [left, right], atol=1e-4)
        np.testing.assert_allclose(mixed.numpy(), left / 2, atol=1e-4)

    @pytest.mark.parametrize(("layout", "count"), [("5.1", 6), ("7.1", 8), ("16 channels", 16)])
    def test_many_planar_channels_are_mixed(self, tmp_path, layout, count):
        """Planar samples of 8 and more channels are where PyAV reads past its planes."""
        path = tmp_path / "a.mkv"
        loud_first = np.zeros((1, 16000 * count), dtype=np.float32)
        loud_first[0, ::count] = tone(duration_s=1.0)
        with av.open(str(path), mode="w") as container:
            stream = container.add_stream("wavpack", rate=16000, layout=layout)
            stream.format = "fltp"
            block = av.AudioFrame.from_ndarray(loud_first, format="flt", layout=layout)
            block.sample_rate, block.pts = 16000, 0
            planar = av.AudioResampler(format="fltp", layout=layout, rate=16000)
            for piece in planar.resample(block):
                container.mux(stream.encode(piece))
            container.mux(stream.encode())
        first = read_audio(path, sample_rate_hz=16000, channels="separate")[0]
        mixed = read_audio(path, sample_rate_hz=16000)
        np.testing.assert_allclose(first.numpy(), tone(duration_s=1.0), atol=1e-5)
        np.testing.assert_allclose(mixed.numpy(), first.numpy() / count, atol=1e-6)

    def test_a_silent_track_is_sound(self, make_clip):
        waveform = read_audio(
            make_clip("a.mp4", [shade(0)], sound=0 * tone()), sample_rate_hz=16000
        )
        assert len(waveform) == 32000
        assert float(waveform.abs().max()) < 1e-3

    def test_a_clip_without_sound_says_so(self, make_clip):
        with pytest.raises(MediaError, match="no audio stream"):
            read_audio(make_clip("a.mp4", [shade(0)] * 4), sample_rate_hz=16000)

    def test_a_span_behind_the_end_is_named(self, make_clip):
        path = make_clip("a.mp4", [shade(0)] * 4, sound=tone())
        with pytest.raises(MediaError, match=r"no sound could be decoded between 9\.0 and None s"):
            read_audio(path, sample_rate_hz=16000, start_s=9.0)

    def test_damaged_packets_are_passed_over(self, make_clip):
        content = bytearray(make_clip("a.m4a", sound=tone(duration_s=4.0)).read_bytes())
        for at in range(1000, len(content) - 4000, 700):
            content[at : at + 8] = b"\xff" * 8
        assert len(read_audio(bytes(content), sample_rate_hz=16000)) > 16000

    def test_gaps_that_would_fill_the_memory_are_no_silence(self):
        """A second of sound before each of 200 gaps of 59 s: 61 of them make an hour."""
        track = Track(channels="mix", zero_s=Fraction(0))
        block = av.AudioFrame.from_ndarray(np.ones((1, 1000), np.float32), "fltp", "mono")
        block.sample_rate, block.time_base = 1000, Fraction(1, 1000)
        for i in range(200):
            block.pts = i * 60_000
            track.append(block)
        seconds = track.samples_from(Fraction(0)).shape[0] / 1000
        assert seconds == 200 + 61 * 59
