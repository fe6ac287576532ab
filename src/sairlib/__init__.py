"""sairlib: sequential recommendation research in pure PyTorch.

    import sairlib

    study = sairlib.study("model=sair", "dataset=ml-100k", "training.epochs=5")  # the command line's words
    result = study.run("outputs/mine")      # train, choose, test once, write the run directory
    run = sairlib.load("outputs/mine")      # its data, evaluator and best model

The names in ``__all__`` are the public interface; their docstrings say what they take, return and raise.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sairlib.batch import History
    from sairlib.data.interactions import Interactions
    from sairlib.data.split import Part, Split
    from sairlib.errors import NonFiniteError, UserError
    from sairlib.models.recommender import (
        CategoryModel,
        ClozeModel,
        Head,
        PrefixModel,
        Recommender,
        RecurrentModel,
        SequenceModel,
        StepModel,
    )
    from sairlib.run.finished import Run
    from sairlib.run.report import read_ranks
    from sairlib.run.study import Result, Study

    __version__: str

_HOMES = {
    "batch": ("History",),
    "data.interactions": ("Interactions",),
    "data.split": ("Part", "Split"),
    "errors": ("NonFiniteError", "UserError"),
    "models.recommender": (
        "CategoryModel",
        "ClozeModel",
        "Head",
        "PrefixModel",
        "Recommender",
        "RecurrentModel",
        "SequenceModel",
        "StepModel",
    ),
    "run.finished": ("Run",),
    "run.report": ("read_ranks",),
    "run.study": ("Result", "Study"),
}
"""Where the public names are defined. They are loaded when first used, for torch takes seconds to load."""

__all__ = [
    "CategoryModel",
    "ClozeModel",
    "Head",
    "History",
    "Interactions",
    "NonFiniteError",
    "Part",
    "PrefixModel",
    "Recommender",
    "RecurrentModel",
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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sairlib")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"sairlib.{home}"), name)
    raise AttributeError(f"module 'sairlib' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def study(*words: str, data: "Interactions | None" = None) -> "Study":
    """Assemble a study from words of the command line, such as ``"model=sasrec"`` or ``"training.lr=5e-4"``.

    ``data`` takes the place of a data set: see ``Interactions.from_pandas``. Filters apply to it, and the run has to be
    loaded with the same data again.

    This reads the data and builds the model; ``Study.run`` trains and writes the run directory. Relative folders start
    at the working directory. UserError for unknown or bad settings, and for data that is missing or cannot be read.
    """
    from sairlib import build, configuration  # here, so that importing sairlib does not wait for Hydra

    given = [] if data is None else ["data=..."]
    if data is not None:
        words = ("dataset=python", *words)
    with configuration.user_errors():
        config = configuration.compose(words)
        command = f"sairlib.study({', '.join([*map(repr, words), *given])})"
        return build.study(config, command, configuration.words_document(words), data)


def load(
    directory: str | Path, device: str = "auto", trust: Sequence[str] = (), data: "Interactions | None" = None
) -> "Run":
    """Load the run in ``directory``: its split, its evaluator, and the model with the weights that validation chose.

    ``device`` is ``auto``, ``cpu``, ``cuda``, ... A run may be a stranger's: only classes of sairlib are made, and of
    the packages in ``trust``, such as ``("my_models",)``. ``data`` is for a run whose data was given from Python: give
    the same again. UserError if there is no run, if it names other classes, if
    the device is not available, or if the data is not what the weights were trained on.
    """
    from sairlib import build, configuration

    with configuration.user_errors():
        return build.load_run(Path(directory), device=device, trust=tuple(trust), data=data)
