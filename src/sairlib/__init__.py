"""sairlib: sequential recommendation research in pure PyTorch.

    import sairlib

    study = sairlib.study("model=sair", "dataset=ml-100k", "training.epochs=5")  # the command line's words
    result = study.run("outputs/mine")      # train, choose, test once, write the run directory
    run = sairlib.load("outputs/mine")      # its data, evaluator and best model

The names below are the public interface; what they take and give is said where they are defined.
"""

import importlib.metadata
from pathlib import Path

from sairlib.batch import Batch, History
from sairlib.data.dataset import Dataset
from sairlib.data.interactions import Interactions
from sairlib.data.split import Part, Split
from sairlib.errors import NonFiniteError, UserError
from sairlib.evaluation.rankings import Ranks
from sairlib.models.recommender import ClozeModel, Head, Recommender, SequenceModel, StepModel
from sairlib.run.report import read_ranks
from sairlib.run.study import Result, Run, Study

__version__ = importlib.metadata.version("sairlib")

__all__ = [
    "Batch",
    "ClozeModel",
    "Dataset",
    "Head",
    "History",
    "Interactions",
    "NonFiniteError",
    "Part",
    "Ranks",
    "Recommender",
    "Result",
    "Run",
    "SequenceModel",
    "Split",
    "StepModel",
    "Study",
    "UserError",
    "load",
    "read_ranks",
    "study",
]


def study(*words: str) -> Study:
    """Assemble a study from words of the command line, such as ``"model=sasrec"`` or ``"training.lr=5e-4"``.

    Data is read and the model is made here; nothing is trained or written before ``Study.run``. Relative folders are
    taken from the working directory. UserError for words that mean nothing, and for data that cannot be found or read.
    """
    from sairlib import build  # only who asks for it waits for Hydra

    with build.user_errors():
        config = build.compose(words)
        return build.study(config, f"sairlib.study({', '.join(map(repr, words))})", build.kept_words(words))


def load(directory: str | Path, device: str = "auto") -> Run:
    """What a run has left in ``directory``: its split and evaluator, and the model with the weights validation chose.

    UserError if there is no run, or its data is no longer what the weights were trained on.
    """
    from sairlib import build

    with build.user_errors():
        return build.load_run(Path(directory), device=device)
