"""The trained-blind cell sees clips that do not belong to their text."""

import csv
import io
import json

from video_llama.apps.toy_experiments import swap_clips


def test_every_row_of_a_csv_gets_the_clip_of_another_and_keeps_its_text():
    text = "videoid,name,page_dir\n" + "".join(f'v{i},"text {i}, more",p{i}\n' for i in range(9))
    rows = list(csv.DictReader(io.StringIO(swap_clips(text, is_csv=True))))
    assert [row["name"] for row in rows] == [f"text {i}, more" for i in range(9)]
    assert all(row["videoid"] != f"v{i}" for i, row in enumerate(rows))
    assert all(row["videoid"][1:] == row["page_dir"][1:] for row in rows)
    assert sorted(row["videoid"] for row in rows) == [f"v{i}" for i in range(9)]


def test_every_conversation_gets_the_clip_of_another_and_keeps_its_text():
    rows = [{"video": f"{i}.mp4", "QA": [{"q": "?", "a": str(i)}]} for i in range(5)]
    swapped = json.loads(swap_clips(json.dumps(rows), is_csv=False))
    assert [row["QA"] for row in swapped] == [row["QA"] for row in rows]
    assert all(row["video"] != rows[i]["video"] for i, row in enumerate(swapped))
