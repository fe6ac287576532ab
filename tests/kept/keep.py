"""Train one tiny run and keep it beside this file, so that every later version can prove that it still loads it.

    python tests/kept/keep.py [NAME]

NAME is the folder's name, by default the version of sairlib. It must not exist yet.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from command_helpers import actions_with_new_last_items, write_data  # noqa: E402

import sairlib  # noqa: E402

WORDS = (
    *("model=sasrec", "model.d=8", "model.n_blocks=1", "max_len=8", "device=cpu"),
    *("training.epochs=2", "training.batch_size=16", "evaluation.n_candidates=5", "seed=1"),
    *("data.root=data", "data.cache=cache", "dataset.url=null"),
)


def keep(folder: Path) -> None:
    """Make the run in ``folder``, which must not exist. All paths in its files are relative to that folder."""
    folder.mkdir(parents=True)
    write_data(folder, actions_with_new_last_items())
    before = Path.cwd()
    os.chdir(folder)
    try:
        sairlib.study(*WORDS).run("run")
    finally:
        os.chdir(before)
    for path in (folder / "run").glob("events.out.*"):  # sairlib does not read them, and their names hold the machine's
        path.unlink()
    record = json.loads((folder / "run" / "run.json").read_text())
    del record["machine"]
    (folder / "run" / "run.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    keep(HERE / (sys.argv[1] if len(sys.argv) > 1 else sairlib.__version__))
