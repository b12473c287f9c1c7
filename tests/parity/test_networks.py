"""Encoders, Q-Formers and decoder against what the published code computes, layer by layer."""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close
from tiny_released import shared_model

from video_llama.common.types import BranchInput, Features


def rows(raw):
    """Rows of a branch in which every step is real."""
    return BranchInput(
        raw=raw,
        raw_mask=torch.ones(raw.shape[:2], dtype=torch.bool),
        raw_rows=torch.arange(len(raw)),
    )


def outputs_of(modules, run):
    """Return what `run` returns, and by name what modules give while it runs.

    Frozen parts of a branch run row by row, so a module's outputs are joined.
    """
    found = {name: [] for name in modules}

    def noting(name):
        return lambda _module, _inputs, out: found[name].append(getattr(out, "tokens", out))

    handles = [module.register_forward_hook(noting(name)) for name, module in modules.items()]
    with torch.no_grad():
        result = run()
    for handle in handles:
        handle.remove()
    return result, {name: torch.cat(outputs) for name, outputs in found.items()}


def everything(*shape):
    return torch.ones(shape, dtype=torch.bool)


class TestEva:
    def test_every_block_gives_the_published_tokens(self, tensors):
        expected = tensors("models/eva_qformer")
        encoder = shared_model().branches["video"].encoder
        modules = {f"block{index}": block for index, block in enumerate(encoder.vit.blocks)}
        modules["patch_embed"] = encoder.vit.patch_embed
        frames = expected["eva.in"][:, None]
        output, found = outputs_of(modules, lambda: encoder(frames, everything(2, 1)))
        assert_close(output.tokens[:, 0], expected["eva.out"], kind="EVA blocks")
        assert len(found) == 4
        for name, tokens in found.items():
            assert_close(tokens, expected[f"eva.{name}"], kind="EVA blocks")

    @pytest.mark.parametrize("size", [28, 84])
    def test_another_image_size_stretches_positions_as_published(self, size, tensors):
        expected = tensors("models/eva_interp")
        encoder = shared_model(branches=("video",), image_size=size).branches["video"].encoder
        positions = encoder.vit.pos_embed
        assert_close(positions, expected[f"interp{size}.pos_embed"], kind="EVA at other sizes")
        with torch.no_grad():
            tokens = encoder(expected[f"interp{size}.in"][:, None], everything(1, 1)).tokens
        assert_close(tokens[:, 0], expected[f"interp{size}.out"], kind="EVA at other sizes")


class TestImageQFormer:
    def test_every_layer_gives_the_published_queries(self, tensors):
        expected = tensors("models/eva_qformer")
        stages = shared_model().branches["video"].stages
        qformer = stages["image_qformer"]
        modules = {f"hidden{index + 1}": layer for index, layer in enumerate(qformer.layers)}
        modules["hidden0"] = qformer.norm
        normed = stages["ln_vision"](Features(expected["eva.out"][:, None], everything(2, 1, 17)))
        assert_close(normed.tokens[:, 0], expected["ln_vision.out"], kind="image Q-Former layers")
        output, found = outputs_of(modules, lambda: qformer(normed))
        assert_close(output.tokens[:, 0], expected["qformer.out"], kind="image Q-Former layers")
        assert len(found) == 5
        for name, hidden in found.items():
            hidden = hidden.expand(2, -1, -1)
            assert_close(hidden, expected[f"qformer.{name}"], kind="image Q-Former layers")

    def test_masked_patches_are_not_seen_as_published(self, tensors):
        expected = tensors("models/eva_qformer")
        mask = expected["qformer.mask"].bool()[:, None]
        with torch.no_grad():
            output = (
                shared_model()
                .branches["video"]
                .stages["image_qformer"](Features(expected["ln_vision.out"][:, None], mask))
            )
        assert_close(
            output.tokens[:, 0], expected["qformer.out_masked"], kind="image Q-Former layers"
        )


@pytest.mark.parametrize("num_frames", [1, 4, 8])
def test_a_clip_becomes_the_published_soft_tokens(num_frames, tensors):
    expected = tensors("models/encode_video")
    branch, case = shared_model().branches["video"], f"T{num_frames}"
    stages = branch.stages
    modules = {"frames": stages["image_qformer"], "video": stages["video_qformer"]}
    pixels = expected[f"{case}.in"].transpose(1, 2)
    output, found = outputs_of(modules, lambda: branch(rows(pixels)))
    positions = stages["video_qformer"].positions.weight[:num_frames, None]
    frames = (found["frames"] + positions).flatten(1, 2)
    soft = output.features.tokens[:, 0]
    assert_close(frames, expected[f"{case}.frame_hidden"], kind="video branch")
    assert_close(found["video"][:, 0], expected[f"{case}.video_hidden"], kind="video branch")
    assert_close(soft, expected[f"{case}.inputs_llama"], kind="video branch")
    assert output.features.mask.all()


class TestImageBind:
    def encode(self, model, steps):
        encoder = model.branches["audio"].encoder
        modules = {
            "stem": encoder.pre_norm,
            "trunk": encoder.blocks[-1],
            "feature": encoder.norm,
        }
        output, found = outputs_of(modules, lambda: encoder(steps, everything(*steps.shape[:2])))
        # The encoder asks its last block for the class token alone.
        hidden = found["stem"]
        with torch.no_grad():
            for block in encoder.blocks:
                hidden = block(hidden)
        kind = f"ImageBind, {encoder.config.trunk} trunk"
        assert_close(found["trunk"], hidden[:, :1], kind=kind)
        return output.tokens[:, :, 0], found | {"trunk": hidden}

    def test_sound_gives_the_published_numbers_at_every_stage(self, tensors):
        expected = tensors("models/imagebind")
        final, found = self.encode(shared_model(), expected["audio.in"])
        kind = "ImageBind, audio trunk"
        assert_close(found["stem"][:1], expected["audio.tokens_clip0"], kind=kind)
        assert_close(found["trunk"][:2], expected["audio.trunk_clip01"], kind=kind)
        feature = found["feature"].reshape(2, 3, 64)
        assert_close(feature, expected["audio.feature"], kind=kind)
        assert_close(final, expected["audio.final"], kind=kind)
        assert_close(final.mean(dim=1), expected["audio.forward_mean"], kind=kind)

    @pytest.mark.parametrize("size", [56, 224])
    def test_pictures_give_the_published_numbers_at_every_stage(self, size, tensors):
        expected = tensors("models/imagebind")
        model = shared_model(branches=("audio",), trunk="vision", image_size=size)
        final, found = self.encode(model, expected[f"vision{size}.in"])
        kind = "ImageBind, vision trunk"
        if size == 56:
            assert_close(found["trunk"], expected["vision56.trunk"], kind=kind)
        feature = expected[f"vision{size}.feature"]
        assert_close(found["feature"].reshape(feature.shape), feature, kind=kind)
        assert_close(final, expected[f"vision{size}.final"], kind=kind)

    def test_patches_and_positions_of_a_picture_are_the_published_ones(self, tensors):
        expected = tensors("models/imagebind")
        model = shared_model(branches=("audio",), trunk="vision")
        encoder = model.branches["audio"].encoder
        frames = expected["vision56.in"].flatten(0, 1)
        with torch.no_grad():
            patches = encoder.stem(frames)
            cls = encoder.cls_token.expand(len(frames), -1, -1)
            tokens = torch.cat([cls, patches], dim=1) + encoder.positions
        assert_close(tokens, expected["vision56.tokens"], kind="ImageBind, vision trunk")


@pytest.mark.parametrize(
    ("case", "size"), [("audio", None), ("audio8", None), ("vision56", 56), ("vision224", 224)]
)
def test_sound_and_pictures_become_the_published_soft_tokens(case, size, tensors):
    expected = tensors("models/encode_audio")
    model = (
        shared_model()
        if size is None
        else shared_model(branches=("audio",), trunk="vision", image_size=size)
    )
    steps = expected.get(f"{case}.in")
    steps = tensors("models/imagebind")[f"{case}.in"] if steps is None else steps
    with torch.no_grad():
        output = model.branches["audio"](rows(steps))
    assert_close(
        output.features.tokens[:, 0], expected[f"{case}.inputs_llama"], kind="audio branch"
    )


def test_the_decoder_gives_the_published_states_logits_and_loss(tensors):
    expected = tensors("models/llama_forward")
    decoder = shared_model().decoder
    mask, labels = expected["mask"].bool(), expected["labels"]
    with torch.no_grad():
        embeds = decoder.embed(expected["ids"])
        hidden = decoder(embeds, attention_mask=mask)
        loss = decoder.loss(embeds, attention_mask=mask, labels=labels).token_loss.mean()
        logits = decoder.logits(hidden)
    assert_close(hidden[mask], expected["hidden_last"][mask], kind="decoder")
    assert_close(logits[mask], expected["logits"][mask], kind="decoder")
    assert_close(loss, expected["loss"][0], kind="decoder")
