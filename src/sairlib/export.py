"""Export the model of a run to files that need no sairlib: torch.export, ONNX, safetensors, or vectors for an index.

    python -m sairlib.export run=DIR out=FOLDER [format=torch]      (or: sairlib-export)

Examples:
    python -m sairlib.export run=outputs/2026-11-20/21-24-36 format=torch out=sasrec
    python -m sairlib.export run=DIR format=onnx out=sasrec-onnx
    python -m sairlib.export run=DIR format=vectors out=sasrec-vectors

Formats: torch and onnx (states.*: from histories to states; scores.*: to scores of all items), safetensors (the weights
alone), vectors (of all items and users, and a program for other histories). FOLDER is new; it also holds items.csv, the
ids behind the numbers of items, and export.json. Before it is there, what was written is compared with the model on
1,000 real histories. docs/export.md says more.

Settings: run, out, format, data.root, data.cache; trust=[my_models] allows the run to name classes of that package of
yours. onnx and safetensors need pip install 'sairlib[onnx]' and 'sairlib[safetensors]'.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sairlib.commands import plain_errors, run_command, whole_start
from sairlib.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class ExportSettings:
    """The settings at the top level of ``export.yaml``."""

    run: str
    format: str
    out: str
    trust: tuple[str, ...]


def export(config: "DictConfig") -> dict[str, Any]:
    """Export the best weights of a run, and print what was written. Returns the content of ``export.json``.

    UserError as in ``load_run`` and ``exporting.folder.export``.
    """
    for name, what in (("run", "the directory of a run"), ("out", "the folder to make")):
        if not config[name]:
            raise UserError(f"{name}=? Give {what}: python -m sairlib.export run=DIR format=torch out=FOLDER")
    with whole_start():  # here, not above: --help must not wait for torch
        from sairlib import build, make
        from sairlib.exporting.folder import export as write

    settings = make.settings(make.only(config, ExportSettings.__dataclass_fields__), "", ExportSettings)
    directory, out = Path(settings.run), Path(settings.out)
    about = write(build.load_run(directory, config, "cpu", settings.trust), directory, settings.format, out)
    for name, check in about["checks"].items():
        print(
            f"{name:<18} {about['bytes'][name] / 1e6:7.2f} MB  max difference {check['max_absolute_difference']:.1e}"
            f" ({check['max_relative_difference']:.1e} relative), {check['histories']:,} histories in"
            f" {check['batches']} batches, lengths {check['shortest']} to {check['longest']}"
        )
    print(f"{about['model']} is in {out}: {', '.join([*about['bytes'], 'export.json'])}")
    return about


def _job(config: "DictConfig") -> None:
    from sairlib.configuration import user_errors

    with plain_errors(), user_errors():
        export(config)


def _command(words: list[str]) -> None:
    with whole_start():
        from sairlib.configuration import run_job
    run_job(_job, "export")


def main() -> None:
    """The console script ``sairlib-export``."""
    run_command(_command, lambda: str(__doc__))


if __name__ == "__main__":
    main()
