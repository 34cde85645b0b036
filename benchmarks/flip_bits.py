"""Single flipped bits in a results file: none may be read as other content.

    python benchmarks/flip_bits.py FILE [FLIPS]

flips one bit at a time at places spread over the file, reads the rows and the statuses, and counts what was refused, what
was read unchanged (the bit has no meaning) and what was read as something else. Exit code 1 if there is any of the last.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from expbench.results import reading
from expbench.results.schema import SCHEMA


def outcomes(file: Path, flips: int, seed: int = 0) -> Counter[str]:
    """Return how many flipped bits of a file were refused, read unchanged, and read as something else."""
    whole, chance = file.read_bytes(), random.Random(seed)
    rows, endings = reading.read_file(file, SCHEMA.names), reading.read_endings(file)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder) / file.name
        for bit in sorted(chance.sample(range(8 * len(whole)), min(flips, 8 * len(whole)))):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            damaged.write_bytes(data)
            found[f"rows {_of_rows(damaged, rows)}"] += 1
            found[f"statuses {_of_endings(damaged, endings)}"] += 1
    return found


def _of_rows(file: Path, expected: object) -> str:
    found = reading.read_file(file, SCHEMA.names)
    if isinstance(found, str):
        return "refused"
    return "unchanged" if found.equals(expected) else "other"


def _of_endings(file: Path, expected: object) -> str:
    try:
        return "unchanged" if reading.read_endings(file) == expected else "other"
    except reading.NoResults:
        return "refused"


def main() -> None:
    """Flip bits of the given file, and print what came of them."""
    found = outcomes(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 4000)
    for outcome, count in sorted(found.items()):
        print(f"{outcome}: {count}")
    sys.exit(bool(found["rows other"] + found["statuses other"]))


if __name__ == "__main__":
    main()
