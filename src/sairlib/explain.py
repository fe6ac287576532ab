"""Why a run recommends what it does: interests before and after their interaction, their names, and attention.

    python -m sairlib.explain DIR [user=42] [SETTING=VALUE ...]      (or: sairlib-explain)

Examples:
    python -m sairlib.explain DIR
    python -m sairlib.explain DIR 'user=[1,2,3]' steps=20
    python -m sairlib.explain DIR user=42 people=0 output=pictures

It prints figures over all people, and a person's steps with what each kept; writes pictures (PNG, and for TensorBoard),
figures.json, and the item table for TensorBoard's projector, into DIR/explain. Histories end before the test item.

Settings: user (an id, or a list of them), history (a file of other people's, as for recommend; -: standard input),
history_format, people (how many the figures are over; 0: none), before (test, validation),
steps (how many of a person are shown), names (how many words name an interest), output (a folder), pictures (true,
false), projector (how many items; 0: none), batch_size, device, data.root, data.cache, trust. Pictures need matplotlib:
pip install 'sairlib[plots]'.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sairlib.commands import whole_start
from sairlib.configured import run_configured
from sairlib.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sairlib.run.explained import AttentionFigures, InterestFigures, Person
    from sairlib.run.finished import Run
    from sairlib.run.interest_names import InterestName


@dataclass(frozen=True)
class ExplainSettings:
    """The settings at the top level of ``explain.yaml``. UserError for a value out of range."""

    run: str
    user: Any
    history: str | None
    history_format: str
    people: int | None
    before: str
    steps: int
    names: int
    output: str | None
    pictures: bool
    projector: int
    batch_size: int | None
    device: str
    trust: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, least in (("people", 0), ("steps", 1), ("names", 1), ("projector", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name}={value}: must be {least} or more")
        if self.before not in ("test", "validation"):
            raise UserError(f"before={self.before}: choose one of test, validation")
        if self.user is not None and self.history is not None:
            raise UserError("user and history do not go together; give one of user=ID, history=FILE")
        if self.people == 0 and self.user is None and self.history is None:
            raise UserError("people=0 leaves nobody to explain: give user=ID or history=FILE")


def explain(config: "DictConfig") -> None:
    """Explain the run that ``config`` names. UserError as in ``load_run``, for an unknown user, for a model that has
    neither interests nor attention over steps, and for files that cannot be written."""
    if not config.run:
        raise UserError("which run? Give its directory: python -m sairlib.explain DIR [user=ID ...]")
    with whole_start():  # here, not above: --help must not wait for torch
        from sairlib import build, make
        from sairlib.data.split import Part
        from sairlib.run import explain_pictures, explain_text, explained, histories, history_files, interest_names

    settings = make.settings(make.only(config, ExplainSettings.__dataclass_fields__), "", ExplainSettings)
    users = None if settings.user is None else histories.given_ids(settings.user)
    if settings.pictures:  # now, not after minutes of work
        explain_pictures.require("pictures need matplotlib", ", or add pictures=false")
    given = None
    if settings.history is not None:
        given = history_files.read_histories(settings.history, settings.history_format)
    run = build.load_unranked(Path(settings.run), config, settings.device, settings.trust, settings.batch_size)
    explained.require(run)
    part = Part(settings.before)
    people = histories.before(run.split, part, n=settings.people)
    asked = None if given is None else run.people(given)
    if users is not None:
        asked = histories.before(run.split, part, users)
    if asked is not None and not asked.lengths.all():
        nothing = asked.ids[int(asked.lengths.argmin())]
        raise UserError(f"user={nothing}: nothing to explain, there is no action that the model knows")
    folder = _folder(settings)

    found, attentions = explained.over(run, people) if len(people) else (None, [])
    names = [] if found is None else interest_names.names(run, found, settings.names)
    persons = [] if asked is None else [explained.person(run, asked, row) for row in range(len(asked))]
    texts = [explain_text.person(one, settings.steps) for one in persons]
    texts += [] if found is None else [explain_text.interests(found, names)]
    texts += [explain_text.attention(attentions)] if attentions else []
    print("\n\n".join(texts))
    _write(folder, run, settings, found, names, attentions, persons)
    print(f"\npictures and figures are in {folder}")


def _folder(settings: ExplainSettings) -> Path:
    folder = Path(settings.output or Path(settings.run) / "explain")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder}: the folder cannot be made ({error.strerror})") from error
    return folder


def _write(
    folder: Path,
    run: "Run",
    settings: ExplainSettings,
    found: "InterestFigures | None",
    names: "list[InterestName]",
    attentions: "list[AttentionFigures]",
    persons: "list[Person]",
) -> None:
    """Each file is there as a whole or not at all, and replaces that of an earlier call."""
    from sairlib.files import write_bytes, write_json
    from sairlib.run import explain_board, explain_pictures, explain_text

    if found is not None or attentions:
        write_json(folder / "figures.json", explain_text.plain(found, names, attentions))
    if settings.projector:
        explain_board.write_projector(folder, run, settings.projector)
    if not settings.pictures:
        return
    labels = [name.short for name in names]
    of_all = {} if found is None else {"interests": explain_pictures.along(found, labels)}
    of_all |= {f"attention/{one.name}": explain_pictures.attention(one) for one in attentions}
    drawn = {"": of_all} if of_all else {}
    for one in persons:
        of_data = (
            "user" if settings.history is None else "history"
        )  # the ids of a file may be those of others in the data
        name = f"{of_data}-{re.sub(r'[^0-9A-Za-z_-]', '_', str(one.id))[:80]}"
        drawn[f".{name}"] = {name: explain_pictures.person(one, labels, settings.steps)}
    for ending, pictures in drawn.items():
        for tag, png in pictures.items():
            write_bytes(folder / f"{re.sub('[/ ]', '-', tag)}.png", png)
        explain_board.write_images(folder / f"events.out.tfevents.explain{ending}", pictures)


def main() -> None:
    """The console script ``sairlib-explain``."""
    run_configured(explain, "explain", lambda: str(__doc__))


if __name__ == "__main__":
    main()
