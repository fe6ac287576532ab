"""The application without a network: its answers are those of the run, and its description is true."""

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from served import HOSTILE, M, app_of, ask, reply, run_of

from sairlib.serving.answers import Answers
from sairlib.serving.app import FOLDER, LARGEST_BODY, App
from sairlib.serving.questions import Question, of_body, of_query

MODELS = ["sair", "sasrec", "transrec", "fpmc", "poprec"]
DESCRIPTION = json.loads((FOLDER / "openapi.json").read_text())


def same(answer: dict[str, Any], frame: Any) -> None:
    assert [one["rank"] for one in answer["items"]] == frame["rank"].tolist()
    assert [one["item"] for one in answer["items"]] == frame["item"].tolist()
    assert [one["title"] for one in answer["items"]] == frame["title"].tolist()
    assert [one["score"] for one in answer["items"]] == pytest.approx(frame["score"].tolist(), abs=1e-5)
    assert {answer["by"]} == set(frame["by"])


@pytest.mark.parametrize("model", MODELS)
def test_answers_are_what_the_run_recommends(model: str) -> None:
    app, run = app_of(model), run_of(model)
    status, answer = ask(app, "/recommend?user=3&k=4")
    assert status == 200
    same(answer, run.recommend(users=[3], k=4))
    same(
        ask(app, "/recommend?user=3&k=4&category=genre+1&exclude_seen=false")[1],
        run.recommend(users=[3], k=4, category="genre 1", exclude_seen=False),
    )
    same(ask(app, "/recommend", {"history": [3, "5", 7], "k": 3})[1], run.recommend([[3, 5, 7]], k=3))
    status, answer = ask(app, "/recommend", {"history": [3, 999, 5], "candidates": [3, 5, 8, 9, 99]})
    assert answer["unknown"] == 1 and len(answer["items"]) == 2
    same(answer, run.recommend([[3, 5]], candidates=[3, 5, 8, 9]))
    _, answer = ask(app, "/recommend", {"history": ["nosuch"], "k": 5})
    assert answer["by"] == "popularity" and answer["unknown"] == 1
    same(answer, run.recommend([["nosuch"]], k=5))


def test_a_model_that_looks_at_times_answers_for_users_alone() -> None:
    app, run = app_of("hstu"), run_of("hstu")
    status, answer = ask(app, "/recommend?user=3&k=4")
    assert status == 200
    same(answer, run.recommend(users=[3], k=4))
    status, answer = ask(app, "/recommend", {"history": [3, 5]})
    assert status == 400 and "HSTU looks at times, which a list of items lacks" in str(answer)


@pytest.mark.parametrize("model", MODELS)
def test_questions_asked_together_get_the_answers_they_get_alone(model: str) -> None:
    answers = Answers(run_of(model))
    questions = [
        Question(user=1, k=3),
        Question(history=(3, 5, 7), k=5),
        Question(user=9),  # had everything: nothing is left
        Question(history=()),
        Question(user=2, category="genre 0", k=M),
        Question(history=(1,), category="genre 0", exclude_seen=False),
        Question(history=tuple(range(12)), candidates=(3, 20, 21)),
        Question(user=4, exclude_seen=False, k=1000),
    ]
    prepared = [answers.prepare(question) for question in questions]
    together = answers.answer(prepared)
    assert [len(one["items"]) for one in together[:3]] == [3, 5, 0]
    for one, asked in zip(together, prepared, strict=True):
        [alone] = answers.answer([asked])
        assert [item.pop("score") for item in one["items"]] == pytest.approx(
            [item.pop("score") for item in alone["items"]], abs=1e-5
        )
        assert one == alone


@pytest.mark.parametrize("titles", [True, False])
def test_the_interests_behind_a_list(titles: bool) -> None:
    first, second = (2, 5) if titles else ("sku-2", "sku-5")
    _, answer = ask(app_of("sair", titles), "/recommend", {"history": [first, "x", second], "interests": True, "k": 4})
    told = answer["interests"]
    assert [step["item"] for step in told["steps"]] == [first, second]
    for when in ("before", "after"):
        assert [len(row) for row in told[when]] == [5, 5]
    assert sum(one["weight"] for one in told["kept"]) == pytest.approx(1, abs=1e-4)
    newest = told["after"][-1]
    assert [one["interest"] for one in told["kept"]] == sorted(range(5), key=lambda i: -newest[i])[:2]
    for one in answer["items"]:
        assert ("title" in one) == titles
        assert sum(part["adds"] for part in one["interests"]) == pytest.approx(one["score"], abs=1e-4)
    _, long = ask(app_of("sair", titles), "/recommend?user=7&interests=true")
    assert len(long["interests"]["steps"]) == len(long["interests"]["after"]) == 6  # the model's max_len
    assert ask(app_of("sair", titles), "/recommend", {"history": [], "interests": True})[1]["interests"] is None
    _, nothing = ask(app_of("sair", titles), "/recommend?user=9&interests=true")  # who had everything
    assert nothing["items"] == [] and len(nothing["interests"]["kept"]) == 2


@pytest.mark.parametrize(
    ("target", "body", "status", "says"),
    [
        ("/recommend", None, 400, "which user"),
        ("/recommend?user=77", None, 400, "user=77: nobody in the data has this id (it has 10, such as 0)"),
        ("/recommend?user=1&k=ten", None, 400, "k=ten: must be a whole number from 1 to 1000"),
        ("/recommend?user=1&k=0", None, 400, "k=0"),
        ("/recommend?user=1&k=1001", None, 400, "k=1001"),
        ("/recommend?user=1&user=2", None, 400, "user is given twice"),
        ("/recommend?user=1&colour=red", None, 400, "unknown key colour: choose among user, k"),
        ("/recommend?user=1&exclude_seen=maybe", None, 400, "exclude_seen=maybe"),
        ("/recommend?user=1&category=western", None, 400, "category=western: no such category (the data has genre 0"),
        ("/recommend?user=1&interests=true", None, 400, "SASRec has no interests"),
        ("/recommend?" + "&".join(f"a{i}=1" for i in range(99)), None, 400, "the query cannot be read"),
        ("/recommend?user=%ff%fe", None, 400, "nobody in the data"),
        ("/recommend?k=5", {"history": [1]}, 400, "unknown key k"),
        ("/recommend", b"history=1", 400, "the body is not JSON"),
        ("/recommend", b"\xff\xfe", 400, "the body is not JSON"),
        ("/recommend", b"[" * 200_000, 400, "the body is not JSON: it is nested too deeply"),
        ("/recommend", b'{"history": [' + b"9" * 5000 + b"]}", 400, "the body is not JSON"),
        ("/recommend", [1, 2], 400, "the body is a list, not a JSON object"),
        ("/recommend", {}, 400, "no history"),
        ("/recommend", {"history": "abc"}, 400, "history is a text, not a list"),
        ("/recommend", {"history": [1, [2]]}, 400, "history[1] is a list, not the id of an item"),
        ("/recommend", {"history": [True]}, 400, "history[0] is true"),
        ("/recommend", {"history": [1.5]}, 400, "history[0] is a number, not the id of an item (a whole number"),
        ("/recommend", {"history": [1], "user": 3}, 400, "unknown key user"),
        ("/recommend", {"history": [1], "k": 2.5}, 400, "k=2.5"),
        ("/recommend", {"history": [1], "k": True}, 400, "k=true"),
        ("/recommend", {"history": [1], "k": None}, 400, "k=null"),
        ("/recommend", {"history": [1], "exclude_seen": 1}, 400, "exclude_seen is a number"),
        ("/recommend", {"history": [1], "candidates": 3}, 400, "candidates is a number, not a list"),
        ("/recommend", {"history": [1], "candidates": [99]}, 400, "no item of the model is among the candidates"),
        ("/recommend", {"history": [1], "category": "genre 1", "candidates": [2]}, 400, "of the category genre 1"),
        ("/recommend", {"history": [1], "category": ["genre 1"]}, 400, "category is a list"),
        ("/recommend", b" " * (LARGEST_BODY + 1), 413, "more than 1,000,000 bytes"),
        ("/items?limit=0", None, 400, "limit=0"),
        ("/items?limit=101", None, 400, "limit=101: must be a whole number from 1 to 100"),
        ("/nosuch", None, 404, "no such path"),
        ("/recommend/", None, 404, "no such path"),
        ("/health", {}, 405, "/health takes GET"),
    ],
)
def test_a_bad_request_gets_the_reason(target: str, body: object, status: int, says: str) -> None:
    got, answer = ask(app_of("sasrec"), target, body)
    assert got == status and answer.keys() == {"error"}
    assert says in answer["error"] and "\n" not in answer["error"] and len(answer["error"]) < 1200


def test_a_bug_is_logged_and_not_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(Answers(run_of("sasrec")))

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(app.answers, "search", broken)
    with caplog.at_level(logging.ERROR):
        status, answer = ask(app, "/items?query=x")
    assert status == 500 and "secret" not in answer["error"]
    assert "ZeroDivisionError: a secret" in caplog.text and "Traceback" in caplog.text and "/items" in caplog.text


def test_a_body_comes_in_pieces_and_a_wrong_method_names_the_right_ones() -> None:
    app, body = app_of("sasrec"), json.dumps({"history": [3, 5]}).encode()
    pieces = asyncio.run(reply(app, "POST", "/recommend", *[body[i : i + 3] for i in range(0, len(body), 3)]))
    assert pieces == asyncio.run(reply(app, "POST", "/recommend", body)) and pieces[0] == 200
    status, headers, _ = asyncio.run(reply(app, "DELETE", "/recommend"))
    assert (status, headers["allow"]) == (405, "GET, POST")
    status, headers, page = asyncio.run(reply(app, "HEAD", "/"))
    assert status == 200 and headers["content-type"].startswith("text/html") and b"<title>sairlib" in page


def test_items_are_found_by_words_of_titles_and_by_ids() -> None:
    app = app_of("sasrec")

    def found(query: str) -> list[int]:
        return [one["item"] for one in ask(app, f"/items?query={query}&limit=100")[1]["items"]]

    counts = run_of("sasrec").store.counts_M.tolist()
    assert sorted(found("")) == list(range(M)) == sorted({*found("FILM+the"), 7})
    assert [counts[item + 1] for item in found("")] == sorted(counts[1:], reverse=True)
    assert sorted(found("part+z")) == [item for item in range(M) if item % 3 == 2]
    assert found("1953+film") == [3] and found("1953+1954") == [] and found("img") == [7]
    assert found("part+z%0Athe") == found("part+z")
    assert ask(app, "/items?query=onerror")[1] == {"items": [{"item": 7, "title": HOSTILE}]}
    assert ask(app_of("sasrec", False), "/items?query=SKU-21&limit=5")[1] == {"items": [{"item": "sku-21"}]}


def test_ids_that_a_browser_would_round_are_text() -> None:
    run = run_of("sasrec")
    data = replace(run.split.dataset, item_ids=run.split.dataset.item_ids + 2**60 + 1)
    app = App(Answers(replace(run, split=replace(run.split, dataset=data))))
    for history in ([str(2**60 + 4)], [2**60 + 4]):
        _, answer = ask(app, "/recommend", {"history": history})
        assert answer["unknown"] == 0 and {type(one["item"]) for one in answer["items"]} == {str}


def test_the_description_names_every_route_and_what_it_takes() -> None:
    app = app_of("sair")
    described = {path: {method.upper() for method in methods} for path, methods in DESCRIPTION["paths"].items()}
    assert described == {path: set(methods) for path, methods in app.routes.items()}
    assert ask(app, "/openapi.json") == (200, DESCRIPTION)
    asked = DESCRIPTION["paths"]["/recommend"]["get"]["parameters"]
    values = {"user": "3", "k": "4", "category": "genre 1", "exclude_seen": "false", "interests": "true"}
    query = "&".join(f"{one['name']}={values[one['name']]}" for one in asked).replace(" ", "+")
    assert of_query(query) == Question("3", (), 4, False, None, "genre 1", True)
    fields = DESCRIPTION["components"]["schemas"]["Question"]["properties"]
    assert fields.keys() == set(Question._fields) - {"user"}
    for name, field in fields.items():
        if "default" in field:
            assert field["default"] == Question._field_defaults[name]
    of_body(json.dumps({"history": [1], "candidates": None, "category": None}).encode())


def test_the_answers_and_the_examples_are_as_described() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema({"$defs": DESCRIPTION["components"]["schemas"]})

    def check(value: object, schema: dict[str, Any]) -> None:
        jsonschema.Draft202012Validator({**schema, "components": DESCRIPTION["components"]}).validate(value)

    def schema(path: str, method: str, status: int) -> Any:
        return DESCRIPTION["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]

    for methods in DESCRIPTION["paths"].values():
        for operation in methods.values():
            for part in [operation.get("requestBody"), *operation["responses"].values()]:
                for content in part["content"].values() if part else ():
                    if "example" in content:
                        check(content["example"], content["schema"])
    full = {"history": [3, "x"], "k": 2, "exclude_seen": True, "candidates": None, "category": "genre 1"}
    check(full, {"$ref": "#/components/schemas/Question"})
    for model, titles in (("sair", True), ("sair", False), ("sasrec", True)):
        app, interests = app_of(model, titles), model == "sair"
        for target, body in [
            ("/health", None),
            ("/items?query=2", None),
            ("/items?limit=x", None),
            ("/recommend?user=3", None),
            ("/recommend?user=x", None),
            ("/recommend", {"history": [3, "sku-4"], "interests": interests}),
            ("/recommend", {"history": [], "interests": interests}),
            ("/recommend", b"?"),
            ("/recommend", b" " * (LARGEST_BODY + 1)),
        ]:
            status, answer = ask(app, target, body)
            check(answer, schema(target.partition("?")[0], "get" if body is None else "post", status))
