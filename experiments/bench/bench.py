"""sairlib and its peers side by side: one command, alternating, medians with spread, ratios.

    python experiments/bench/bench.py                    all rows, into experiments/bench/results.json and RESULTS.md
    python experiments/bench/bench.py epoch-ml-1m start  these rows; the other rows keep their figures

Needs the real data sets under SAIRLIB_DATA. Each peer gets an environment under ``--work`` (default: bench-work; do not
commit it), created on first use. A row whose data is missing is skipped with a message.
"""

import argparse
import json
import os
from pathlib import Path

from harness import HERE, Bench, machine
from rows import ROWS
from tables import markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of: {', '.join(ROWS)}")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    bench = Bench(arguments.work.resolve(), arguments.threads, arguments.rounds)
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments.rows or ROWS:
        print(name)
        try:
            results[name] = {"machine": machine(bench), **ROWS[name](bench)}
        except FileNotFoundError as error:
            print(f"  left out: {error}")
            continue
        path.write_text(json.dumps(results, indent=1) + "\n")
        (HERE / "RESULTS.md").write_text(markdown(results, ROWS))
    print((HERE / "RESULTS.md").read_text())


if __name__ == "__main__":
    main()
