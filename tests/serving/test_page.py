"""The page in a real browser, by its keyboard. Skipped without uvicorn, playwright or Chromium."""

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from served import HOSTILE, app_of

from sairlib.serving.app import App

uvicorn = pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def address() -> Iterator[Callable[[App], str]]:
    """Serves an application to the end of the tests; returns where."""
    with ExitStack() as ends:

        def serve(app: App) -> str:
            listener = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            ends.callback(thread.join)
            ends.callback(setattr, server, "should_exit", True)
            return f"http://127.0.0.1:{listener.getsockname()[1]}/"

        yield serve


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page on which nothing may go wrong, and that speaks to no other machine."""
    opened = browser.new_page()
    wrong: list[object] = []
    opened.set_default_timeout(20_000)

    def note(bad: bool, what: str) -> None:
        if bad:
            wrong.append(what)

    opened.on("pageerror", lambda error: note(True, str(error)))
    opened.on("console", lambda said: note(said.type == "error" and "status of 500" not in said.text, said.text))
    opened.on("request", lambda sent: note(not sent.url.startswith(("http://127.0.0.1", "data:")), sent.url))
    yield opened
    opened.close()
    assert wrong == []


def texts(page: Any, selector: str) -> list[str]:
    return [one.strip() for one in page.locator(selector).all_inner_texts()]


def expect(page: Any, selector: str) -> Any:
    """What is waited for."""
    return playwright.expect(page.locator(selector))


def pick(page: Any, words: str, down: int = 0) -> None:
    """By the keyboard alone: type, go down, choose."""
    n_picked, found = page.locator("#picked li").count(), "#found [role=option]"
    page.locator("#query").focus()
    page.keyboard.type(words)
    if down:  # Enter alone waits for what is found
        expect(page, f"{found}:first-child").to_contain_text(words.split()[-1])
        expect(page, f"{found}:not(:has-text('{words.split()[-1]}'))").to_have_count(0)
    for _ in range(down):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page, "#picked li").to_have_count(n_picked + 1)


def test_films_are_picked_and_the_list_its_interests_and_their_map_appear(
    page: Any, address: Callable[[App], str]
) -> None:
    page.goto(address(app_of("sair")))
    expect(page, "#list li").to_have_count(10)
    assert "SAIR: 24 items, 10 people, 5 interests" in page.inner_text("#about")
    assert "occur most often" in page.inner_text("#by") and page.is_hidden("#map")

    pick(page, "1953")
    pick(page, "film part z", down=1)
    pick(page, "onerror")
    expect(page, "#before thead th").to_have_count(3)
    assert texts(page, "#picked .name")[::2] == ["The film of 1953, part x", HOSTILE]
    assert page.title() == "sairlib"  # the hostile title is text
    assert texts(page, "#before thead th") == texts(page, "#after thead th") == texts(page, "#picked .name")
    assert page.locator("#after tbody tr").count() == 5 and page.locator("#after tr.kept").count() == 2
    assert page.locator("#kept > span").count() == 2 and page.locator("#list .bar").count() == 10
    assert not set(texts(page, "#list .name")) & set(texts(page, "#picked .name"))

    page.focus("#list li:first-child button")
    best = texts(page, "#list .name")[0]
    page.keyboard.press("Enter")
    expect(page, "#before thead th").to_have_count(4)
    assert texts(page, "#picked .name")[-1] == best
    expect(page, "#list li:first-child button").to_be_focused()

    page.select_option("#category", "genre 1")
    expect(page, "#list .name").to_have_text([re.compile("19[0-9][13579]|onerror")] * 10)
    page.focus("#picked li:first-child button")
    for _ in range(4):
        page.keyboard.press("Enter")
    expect(page, "#query").to_be_focused()
    page.keyboard.press("Escape")
    expect(page, "#map").to_be_hidden()
    assert page.is_hidden("#found") and page.is_visible("#nothing")


def test_a_model_without_interests_and_data_without_titles(page: Any, address: Callable[[App], str]) -> None:
    page.goto(address(app_of("sasrec", False)))
    pick(page, "sku-21")
    expect(page, "#by").to_contain_text("by their scores")
    assert texts(page, "#picked .name") == ["sku-21"] and page.locator("#list .name").count() == 10
    assert "SASRec has no interests to show" in page.inner_text("#why-not")
    assert page.is_hidden("#map") and page.is_hidden("#of-category") and page.locator("#list .bar").count() == 0


def test_an_error_is_shown_until_all_is_well_again(page: Any, address: Callable[[App], str]) -> None:
    page.goto(address(app_of("sasrec")))
    expect(page, "#list li").to_have_count(10)
    page.route("**/recommend", lambda route: route.fulfill(status=500, body='{"error": "out of order"}'))
    page.select_option("#k", "20")
    expect(page, "#wrong").to_have_text("out of order")
    page.unroute("**/recommend")
    page.select_option("#k", "50")
    expect(page, "#wrong").to_be_hidden()
