"""The heap, looked at through the kernel's count of pages it had to hand out."""

import subprocess
import sys

COUNT = """
import os, resource, torch
from video_llama.common.heap import keep_freed_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work(times):
    for _ in range(times):
        held = [torch.ones(3 * 2**22) for _ in range(2)]
        del held
def measure():
    work(10)
    before = faults()
    work(4)
    print(faults() - before, flush=True)
# Two processes, of which torch is imported once.
child = os.fork()
if child:
    os.waitpid(child, 0)
    assert keep_freed_memory()
measure()
"""
PAGES = 4 * 2 * 3 * 2**24 // 4096


def test_freed_blocks_are_used_again_where_they_are_kept():
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    as_usual, kept = map(int, done.stdout.split())
    assert as_usual > PAGES // 2
    assert kept < PAGES // 10
