"""A row in which nothing is to be learned costs itself: skipped, counted, named; never a NaN."""

from __future__ import annotations

import json

import pytest
from conversation.chat_styles import sentencepiece_dir

from video_llama.common.types import IGNORE_INDEX
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.datasets.messages import Messages
from video_llama.datasets.mixture import MixtureDataset
from video_llama.datasets.sample_encoder import SampleEncoder, TextSettings
from video_llama.datasets.stream import SampleRef
from video_llama.processors.media import MediaLoader

ANSWERED = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A boat."}]
OPENS_WITH_AN_ANSWER = [{"role": "assistant", "content": "Hello."}, *ANSWERED]


@pytest.fixture
def data(tmp_path):
    """Rows of which one is refused by the decoder's own template, as its turns do not alternate."""
    rows = [{"messages": OPENS_WITH_AN_ANSWER}, *({"messages": ANSWERED} for _ in range(3))]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    reader = Messages(
        Messages.Config(annotations=str(tmp_path / "rows.jsonl"), media=str(tmp_path)), name="rows"
    )
    tokenizer = load_tokenizer(sentencepiece_dir(tmp_path / "decoder", style="inst"))
    text = TextSettings(get_template("tokenizer", tokenizer=tokenizer), tokenizer, max_len=99)
    encoder = SampleEncoder({}, text=text, reader=MediaLoader({}))
    return MixtureDataset({"rows": reader}, encoder=encoder, seed=0)


def test_another_row_takes_its_place_and_the_reason_is_kept(data):
    sample = data[SampleRef("rows", 0, pass_index=0, position=0)]
    [skip] = sample.skips
    assert "refuses a conversation of assistant, user, assistant" in skip.reason
    assert skip.filled_by == sample.index != 0
    assert any(label != IGNORE_INDEX for label in sample.labels)
