"""sairlib: sequential recommendation research in pure PyTorch.

    import sairlib

    study = sairlib.study("model=sair", "dataset=ml-100k", "training.epochs=5")  # the command line's words
    result = study.run("outputs/mine")      # train, choose, test once, write the run directory
    run = sairlib.load("outputs/mine")      # its data, evaluator and best model

The names in ``__all__`` are the public interface; their docstrings say what they take, return and raise.
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

    This reads the data and builds the model; ``Study.run`` trains and writes the run directory. Relative folders start
    at the working directory. UserError for unknown or bad settings, and for data that is missing or cannot be read.
    """
    from sairlib import build  # here, so that importing sairlib does not wait for Hydra

    with build.user_errors():
        config = build.compose(words)
        return build.study(config, f"sairlib.study({', '.join(map(repr, words))})", build.words_document(words))


def load(directory: str | Path, device: str = "auto") -> Run:
    """Load the run in ``directory``: its split, its evaluator, and the model with the weights that validation chose.

    ``device`` is ``auto``, ``cpu``, ``cuda``, ... UserError if there is no run, if the device is not available, or if
    the data is not what the weights were trained on.
    """
    from sairlib import build

    with build.user_errors():
        return build.load_run(Path(directory), device=device)
