"""The heap, looked at through the kernel's count of pages it had to hand out."""

import subprocess
import sys

COUNT = """
import resource, sys, torch
from video_llama.common.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work(times):
    for _ in range(times):
        held = [torch.ones(3 * 2**22) for _ in range(2)]
        del held
work(10)
before = faults()
work(4)
print(faults() - before)
"""
PAGES = 4 * 2 * 3 * 2**24 // 4096


def num_faults(how: str) -> int:
    command = [sys.executable, "-c", COUNT, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_freed_blocks_are_used_again_where_they_are_kept():
    assert num_faults("as usual") > PAGES // 2
    assert num_faults("kept") < PAGES // 10
