"""`python demo_audiovideo.py` as a process: no arguments, and what is left when it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240


@pytest.mark.slow
def test_the_door_serves_the_toy_model_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "demo_audiovideo.py"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Ends a server that never says where it listens.
    watch = threading.Timer(PATIENCE_S, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        said = iter(process.stdout.readline, "")
        url = next(found[0] for line in said if (found := re.search(r"http://127\S+", line)))
        with urllib.request.urlopen(url) as page:
            assert "toy" in page.read().decode()
        assert list(tmp_path.glob("video-llama-uploads-*"))
        process.send_signal(signal.SIGTERM)
        process.communicate()
    finally:
        watch.cancel()
        process.kill()
    assert process.returncode == 0
    # Torch and Gradio leave empty folders of their own.
    assert not list(tmp_path.glob("video-llama-uploads-*"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
