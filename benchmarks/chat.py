"""What reading only the new part of a prompt saves, and what the decoding loop costs.

    OMP_NUM_THREADS=1 python benchmarks/chat.py

A random LLaMA of 16 layers of width 1024. First a conversation: 300 positions, then turn by turn
an answer of 50 tokens and a question of 20. The time to the first token of a turn is measured with
the cache of `VideoLLM.stream_prompt` and with the whole history read again, as the published demo
does (conversation/conversation_video.py). Then tokens per second of our loop against `generate` of
transformers: same weights, greedy, 50 new tokens behind 300 positions, from the first of them to
the last. What is compared takes turns, so that other work on the machine meets both; on a busy
machine `--clock cpu` counts processor time instead. Prints the rows of `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.common.schema import PartConfig
from video_llama.models.answers import stream_answer
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.prompt_cache import PromptCache

VOCAB = 32000
NUM_PROMPT, NUM_ANSWER, NUM_QUESTION = 300, 50, 20
TURNS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Turn:
    """Milliseconds to the first token of a turn.

    Attributes:
        number: 1 for the first.
        length: positions of its prompt.
        reused_ms: with what was read before.
        full_ms: reading everything.
    """

    number: int
    length: int
    reused_ms: float
    full_ms: float


@dataclass(frozen=True)
class Spoken:
    """An answer, and how fast it came once the prompt was read."""

    ids: list[int]
    tokens_per_s: float

    @classmethod
    def of(cls, heard: list[tuple[int, float]]) -> Spoken:
        """Work it out from ids and the seconds at which they came."""
        passed_s = heard[-1][1] - heard[0][1]
        return cls([token_id for token_id, _ in heard], (len(heard) - 1) / passed_s)


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def build(num_layers: int, *, dtype: str, device: str) -> CausalLM:
    """Build the decoder with random weights; no token ends an answer."""
    architecture = {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 16,
        "vocab_size": VOCAB,
        "max_position_embeddings": 4096,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    decoder = CausalLM(
        PartConfig("causal_lm", CausalLM.Config(architecture=architecture, dtype=dtype))
    )
    return decoder.eval().requires_grad_(False).to(device)


def text(num_ids: int, *, seed: int) -> list[int]:
    """Make some text."""
    return torch.randint(
        3, VOCAB, (num_ids,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def first_token_ms(ids: list[int], cache: PromptCache, *, clock: Clock) -> float:
    """Return the time until the first id of an answer is known."""
    prompt = Prompt(ids, [0] * len(ids))
    began = clock()
    next(stream_answer(prompt, cache=cache, settings=GenerationSettings()))
    return (clock() - began) * 1000


def converse(decoder: CausalLM, *, seed: int, clock: Clock) -> list[Turn]:
    """Measure a conversation turn by turn."""
    cache, ids, turns = PromptCache(decoder), text(NUM_PROMPT, seed=seed), []
    settings = GenerationSettings(max_new_tokens=NUM_ANSWER)
    for number in TURNS:
        full_ms = first_token_ms(ids, PromptCache(decoder), clock=clock)
        reused_ms = first_token_ms(ids, cache, clock=clock)
        turns.append(Turn(number, len(ids), reused_ms=reused_ms, full_ms=full_ms))
        said = list(stream_answer(Prompt(ids, [0] * len(ids)), cache=cache, settings=settings))
        ids = [*ids, *said, *text(NUM_QUESTION, seed=seed + number)]
    return turns


def speed_of_ours(decoder: CausalLM, ids: list[int], *, clock: Clock) -> Spoken:
    """Answer with the loop of the package."""
    settings = GenerationSettings(max_new_tokens=NUM_ANSWER)
    stream = stream_answer(
        Prompt(ids, [0] * len(ids)), cache=PromptCache(decoder), settings=settings
    )
    return Spoken.of([(token_id, clock()) for token_id in stream])


class Listener:
    """Notes when `generate` hands its tokens over; the first are those of the prompt."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.heard: list[tuple[int, float]] = []

    def put(self, ids: torch.Tensor) -> None:
        """Take the next ones."""
        self.heard.append((int(ids.flatten()[-1]), self.clock()))

    def end(self) -> None:
        """Take the end."""


def speed_of_theirs(decoder: CausalLM, ids: list[int], *, clock: Clock) -> Spoken:
    """Answer with `generate` of transformers."""
    prompt = torch.tensor([ids], device=decoder.model.device)
    listener = Listener(clock)
    decoder.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NUM_ANSWER,
        do_sample=False,
        streamer=listener,
    )
    return Spoken.of(listener.heard[1:])


def compare_loops(decoder: CausalLM, *, rounds: int, clock: Clock) -> list[tuple[float, float]]:
    """Return the tokens per second of every pair of answers, ours and theirs."""
    ids, pairs = text(NUM_PROMPT, seed=0), []
    for number in range(rounds):
        ways = [speed_of_ours, speed_of_theirs]
        first, second = ways if number % 2 else ways[::-1]
        heard = {way: way(decoder, ids, clock=clock) for way in (first, second)}
        ours, theirs = (heard[way] for way in ways)
        if ours.ids != theirs.ids:
            raise SystemExit(f"the answers differ: {ours.ids} and {theirs.ids}")
        pairs.append((ours.tokens_per_s, theirs.tokens_per_s))
    return pairs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="conversations, and answers each way")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    clock = CLOCKS[args.clock]
    decoder = build(args.layers, dtype=args.dtype, device=args.device)
    first_token_ms(text(NUM_PROMPT, seed=1), PromptCache(decoder), clock=clock)
    conversations = [converse(decoder, seed=100 * n, clock=clock) for n in range(args.rounds)]
    print("| turn | positions | first token, cache, ms | first token, read again, ms | ratio |")
    print("|---|---|---|---|---|")
    for turns in zip(*conversations, strict=True):
        reused, full = (
            statistics.median(getattr(turn, name) for turn in turns)
            for name in ("reused_ms", "full_ms")
        )
        ratio = statistics.median(turn.full_ms / turn.reused_ms for turn in turns)
        print(
            f"| {turns[0].number} | {turns[0].length} | {reused:.0f} | {full:.0f} | {ratio:.1f} |"
        )
    pairs = compare_loops(decoder, rounds=args.rounds, clock=clock)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
    print("\n| loop | tokens per second | ratio |\n|---|---|---|")
    print(f"| `VideoLLM.stream_prompt` | {ours:.1f} | {ratio:.2f} |")
    print(f"| `generate` of transformers | {theirs:.1f} | 1 |")


if __name__ == "__main__":
    main()
