"""Count the lines to read to follow a training step of SASRec: those of all files of sairlib that it executes.

    python experiments/reading.py

Kernels are not counted: each is a plain function, and its fast version is not needed to follow the step.

It counts from ``train_step``. Counts before commit dbf8ccd (13 files, 1,738 lines at e6e9949) begin at the trainer's
method, and so include the trainer and its settings: from there it is 11 files and 1,536 lines today.
"""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import sairlib
from sairlib.training.step import train_step

HOME = Path(sairlib.__file__).parent


def main() -> None:
    study = sairlib.study("model=sasrec", "device=cpu", "data.cache=null")
    trainer = study.trainer
    rows = study.store.epoch(32, 1, trainer.generator)[0]
    study.model.train()
    files: set[Path] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if HOME in path.parents and "kernels" not in path.parts:
            files.add(path)

    batches = study.objective.batches(rows, trainer.generator)
    sys.setprofile(note)
    train_step(study.model, trainer.loss, batches, trainer.optimizers, 1e-3, trainer.settings)
    sys.setprofile(None)
    lines = {path.relative_to(HOME).as_posix(): len(path.read_text().splitlines()) for path in sorted(files)}
    for name, n in lines.items():
        print(f"{n:5}  {name}")
    print(f"{sum(lines.values()):5}  in {len(lines)} files")


if __name__ == "__main__":
    main()
