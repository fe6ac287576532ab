"""Try every fault, and print a table: fault, tries, survived, lost.

    python tests/faults/faults.py [--only WORD] [--share 0.1] [--output table.md]

``--only`` takes the faults whose name holds the word; ``--share`` takes that share of the tries. Every try is seeded by
its number, so that ``--only WORD --try 17`` repeats it alone. Exit code 1 if anything was lost.
"""

import argparse
import importlib
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent


def all_faults() -> list["Fault"]:
    """The faults of all files beside this one."""
    for path in sorted(HERE.glob("*.py")):
        if path.stem not in ("fault", "faults") and not path.stem.startswith("test_"):
            importlib.import_module(path.stem)
    return FAULTS


def attempt(fault: "Fault", number: int) -> str | None:
    """Try a fault once; None if it was survived, else what was lost."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        try:
            fault.once(Path(home), random.Random(f"{fault.name} {number}"))
        except LostError as lost:
            return str(lost) or "lost"
        except Exception:
            return traceback.format_exc()
    return None


def main() -> int:
    options = _options()
    rows, n_lost = [], 0
    for fault in all_faults():
        if options.only and options.only not in fault.name:
            continue
        numbers = [options.number] if options.number is not None else range(max(1, round(options.share * fault.tries)))
        start, lost = time.perf_counter(), 0
        for number in numbers:
            trouble = attempt(fault, number)
            if trouble is not None:
                lost += 1
                print(f"lost: {fault.name}, try {number}: {trouble}", file=sys.stderr)
        n_lost += lost
        seconds = time.perf_counter() - start
        rows.append(f"| {fault.name} | {len(numbers)} | {len(numbers) - lost} | {lost} | {seconds:.0f} s |")
        print(rows[-1], flush=True)
    table = "\n".join(["| fault | tries | survived | lost | time |", "| --- | --- | --- | --- | --- |", *rows])
    if options.output:
        options.output.write_text(table + "\n")
    print(f"\n{table}\n\n{n_lost} lost")
    return min(1, n_lost)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--try", dest="number", type=int)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


sys.path[:0] = [str(HERE), str(TESTS)]
from fault import FAULTS, Fault, LostError  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
