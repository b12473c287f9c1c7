"""A model is never held twice while it is loaded, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[2]
MEASURE = """
import re, sys, threading, time
from pathlib import Path
from video_llama.common.schema import PartConfig
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.common.weights import KeyMap, load_weights, read_state
import torch

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

class Peak(threading.Thread):
    most, running = 0, True
    def run(self):
        while self.running:
            self.most = max(self.most, anonymous())
            time.sleep(0.002)

decoder, encoder = sys.argv[1:]
sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
tiny = CausalLM.Config(architecture=dict(model_type="llama", vocab_size=8, **sizes))
CausalLM(PartConfig(type="causal_lm", config=tiny))  # what transformers imports is not counted
start = anonymous()
peak = Peak()
peak.start()
if encoder == "-":
    config = CausalLM.Config(dtype="bfloat16")
    model = CausalLM(PartConfig(type="causal_lm", config=config, weights=decoder))
else:
    model = torch.nn.Linear(8192, 4096, bias=False, device="meta")
    load_weights(model, read_state(encoder), key_map=KeyMap(), source=encoder)
peak.running = False
peak.join()
size = sum(p.nbytes for p in model.parameters())
print(size, peak.most - start)
"""


def peak_of(decoder, encoder):
    """Load in a fresh process; return the size of what was loaded, and the peak above the start."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(decoder), str(encoder)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's status file")
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_a_decoder_of_other_dtype_is_loaded_with_one_copy(safe, tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 16}
    config = LlamaConfig(**sizes, num_attention_heads=8, vocab_size=8000)
    model = LlamaForCausalLM(config)
    if safe:
        model.save_pretrained(tmp_path)
    else:
        config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    size, peak = peak_of(tmp_path, "-")
    assert size > 80e6
    assert peak < 1.5 * size


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's status file")
def test_a_part_is_loaded_with_one_copy(tmp_path):
    save_file({"weight": torch.zeros(4096, 8192)}, tmp_path / "x.safetensors")
    size, peak = peak_of(tmp_path, tmp_path / "x.safetensors")
    assert size == 4096 * 8192 * 4
    assert peak < 1.2 * size
