"""Questions that arrive while others are answered go to the model at once; an error reaches only who caused it."""

import asyncio
from collections.abc import Sequence

import pytest

from sairlib.serving.together import Together


def test_what_has_arrived_is_answered_in_as_few_calls_as_allowed() -> None:
    calls: list[list[int]] = []

    def double(questions: Sequence[int]) -> list[int]:
        calls.append(list(questions))
        return [2 * question for question in questions]

    async def main() -> list[int | BaseException]:
        together = Together(double, most=3)
        tasks = [asyncio.create_task(together.ask(number)) for number in range(5)]
        await asyncio.sleep(0)  # all have asked
        tasks[2].cancel()  # somebody who has gone
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return [*answers, await together.ask(5)]

    answers = asyncio.run(main())
    assert isinstance(answers.pop(2), asyncio.CancelledError)
    assert answers == [0, 2, 6, 8, 10] and calls == [[0, 1, 2], [3, 4], [5]]


def test_an_error_reaches_only_the_question_that_raises_it() -> None:
    def inverse(questions: Sequence[int]) -> list[float]:
        return [1 / question for question in questions]

    async def main() -> list[float | BaseException]:
        together = Together(inverse, most=8)
        return await asyncio.gather(*(together.ask(number) for number in (2, 0, 4)), return_exceptions=True)

    two, none, four = asyncio.run(main())
    assert (two, four) == (0.5, 0.25)
    with pytest.raises(ZeroDivisionError):
        raise none  # type: ignore[misc]


def test_one_who_has_gone_with_a_bad_question_takes_no_answer_from_others() -> None:
    def inverse(questions: Sequence[int]) -> list[float]:
        return [1 / question for question in questions]

    async def main() -> list[float | BaseException]:
        together = Together(inverse, most=8)
        tasks = [asyncio.create_task(together.ask(number)) for number in (0, 4)]
        await asyncio.sleep(0)  # both have asked
        tasks[0].cancel()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=5)

    gone, four = asyncio.run(main())
    assert isinstance(gone, asyncio.CancelledError) and four == 0.25
