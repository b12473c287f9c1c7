"""Print which tests a marker expression left out, so that a green run never hides one."""

import subprocess
import sys

NOTHING_COLLECTED = 5
"""Pytest's exit code if the expression fits no test."""


def main() -> int:
    """List them by file with a count."""
    # pyproject.toml makes pytest quiet already; twice quiet it would only count them by file.
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", sys.argv[1]]
    done = subprocess.run(command, capture_output=True, text=True)
    names = [line for line in done.stdout.splitlines() if "::" in line]
    if done.returncode not in (0, NOTHING_COLLECTED) or bool(names) == bool(done.returncode):
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        return 1
    print(f"left out ({sys.argv[1]}): {len(names)} tests")
    for name in names:
        print(f"  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
