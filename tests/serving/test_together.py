"""Questions that arrive while others are answered go to the model at once; an error reaches only who caused it."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from sairlib.serving.together import Together


def test_what_arrives_meanwhile_is_answered_in_as_few_calls_as_allowed() -> None:
    calls: list[list[int]] = []
    go = threading.Event()

    def double(questions: Sequence[int]) -> list[int]:
        calls.append(list(questions))
        assert go.wait(10)
        return [2 * question for question in questions]

    async def main() -> list[int]:
        together = Together(double, most=3)
        tasks = [asyncio.create_task(together.ask(0))]
        while not calls:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(together.ask(number)) for number in range(1, 6)]
        await asyncio.sleep(0)
        tasks[2].cancel()  # somebody who has gone
        go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[2], asyncio.CancelledError)
        answers[2] = await together.ask(2)
        together.close()
        return answers

    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 10]
    assert calls == [[0], [1, 2, 3], [4, 5], [2]]


def test_an_error_reaches_only_the_question_that_raises_it() -> None:
    def inverse(questions: Sequence[int]) -> list[float]:
        return [1 / question for question in questions]

    async def main() -> list[float | BaseException]:
        together = Together(inverse, most=8)
        answers = await asyncio.gather(*(together.ask(number) for number in (2, 0, 4)), return_exceptions=True)
        together.close()
        return answers

    two, none, four = asyncio.run(main())
    assert (two, four) == (0.5, 0.25)
    with pytest.raises(ZeroDivisionError):
        raise none  # type: ignore[misc]
