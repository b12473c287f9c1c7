"""Print which tests a marker expression left out, so that a green run never hides one."""

import subprocess
import sys


def main() -> int:
    """List them by file with a count."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", sys.argv[1]]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    names = [line for line in lines if "::" in line]
    print(f"left out ({sys.argv[1]}): {len(names)} tests")
    for name in names:
        print(f"  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
