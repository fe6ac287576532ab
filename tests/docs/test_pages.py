"""The pages that are made when the documentation is built hold what they should, and nothing was read as markup."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout: the wheel has no docs/")


@pytest.fixture(scope="module")
def tools() -> dict[str, ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "tools"))
        return {name: importlib.import_module(name) for name in ("docstrings", "links", "pages", "picture")}


def test_every_model_has_its_page_with_docstring_settings_and_figures(tools: dict[str, ModuleType]) -> None:
    made = tools["pages"].model_pages()
    names = {path.stem for path in (DOCS.parent / "conf" / "model").glob("*.yaml")}
    told = {name for name in names for page in made.values() if f"| `model={name}` |" in page or f"`{name}`" in page}
    assert told == names
    sasrec = made["models/sasrec.md"]
    assert "Deviations from the paper" in sasrec and "| `model.n_blocks` | `2` |" in sasrec
    figures = tools["pages"].experiments().read()["sasrec-ml-1m"].figures("full", interval=True)
    assert figures in sasrec


def test_everything_public_is_in_the_api(tools: dict[str, ModuleType]) -> None:
    import sairlib

    text = tools["pages"].api()
    assert all(f":: sairlib.{name}\n" in text for name in sairlib.__all__)
    assert "sairlib.data.readers.grouplens.GroupLens" in text and "sairlib.training.gbce.GBCE" in text


DOCSTRING = """Score *all* of |x|, see ``a_b`` and x_.

    Of two settings:

        z = a * b

    epochs: how often.
    lr: the rate,
    in each step.

    Then:
    1. one, which
       goes on
    - two
    """


def test_a_docstring_becomes_markup_without_being_read_as_such(tools: dict[str, ModuleType]) -> None:
    assert tools["docstrings"].markdown(DOCSTRING).splitlines() == [
        *(r"Score \*all\* of \|x\|, see `a_b` and x\_.", "", "Of two settings:", ""),
        *("```text", "z = a * b", "```", "", "* `epochs`: how often.", "", "* `lr`: the rate, in each step.", ""),
        *("Then:", "", "1. one, which goes on", "", "* two"),
    ]
    written = tools["docstrings"].restructured(DOCSTRING)
    assert r"\*all\* of \|x\|, see ``a_b`` and x\_." in written and "::\n\n    z = a * b" in written


def test_links_lead_on_from_the_page_that_is_made(tools: dict[str, ModuleType]) -> None:
    follow = tools["links"].for_page
    made = "docs/made/experiments/README.md"
    assert follow("[a](RESULTS.md#x) [b](runs) [c](https://d.e)", "experiments/README.md", made) == (
        "[a](RESULTS.md#x) b [c](https://d.e)"
    )
    assert follow("[a](../docs/grids.md)", "experiments/README.md", made) == "[a](../../grids.md)"
    assert follow("[a](../experiments/README.md)", "docs/grids.md", "docs/grids.md") == (
        "[a](made/experiments/README.md)"
    )
    assert follow("```\n[a](nosuch)\n```", "docs/grids.md", "docs/grids.md") == "```\n[a](nosuch)\n```"
    with pytest.raises(ValueError, match="leads to nothing"):
        follow("[a](nosuch.md)", "docs/grids.md", "docs/grids.md")


def test_no_link_of_the_documents_is_dead(tools: dict[str, ModuleType]) -> None:
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md"), *(DOCS.parent / name for name in tools["links"].DOCUMENTS)]
    for page in pages:
        name = page.relative_to(DOCS.parent).as_posix()
        tools["links"].for_page(page.read_text(encoding="utf-8"), name, name)  # ValueError for a link to nothing


def test_the_picture_is_the_one_that_is_drawn(tools: dict[str, ModuleType]) -> None:
    assert (DOCS / "sair.svg").read_text(encoding="utf-8") == tools["picture"].draw()
