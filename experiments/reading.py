"""Count the lines to read to follow a training step of SASRec: those of all files of sairlib that it executes.

    python experiments/reading.py

It counts from ``Learner.step``: cutting the batch out of the store, drawing negatives, model, loss, backward pass,
learning rate and optimisers. Kernels are not counted: each is a plain function, and its fast version is not needed to
follow the step.
"""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import sairlib

HOME = Path(sairlib.__file__).parent


def main() -> None:
    study = sairlib.study("model=sasrec", "device=cpu", "data.cache=null")
    learner = study.trainer.learner
    rows = study.store.epoch(32, 1, learner.generator)[0]
    study.model.train()
    files: set[Path] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if HOME in path.parents and "kernels" not in path.parts:
            files.add(path)

    sys.setprofile(note)
    learner.step(rows)
    sys.setprofile(None)
    lines = {path.relative_to(HOME).as_posix(): len(path.read_text().splitlines()) for path in sorted(files)}
    for name, n in lines.items():
        print(f"{n:5}  {name}")
    print(f"{sum(lines.values()):5}  in {len(lines)} files")


if __name__ == "__main__":
    main()
