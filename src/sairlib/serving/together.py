"""Questions that arrive while others are answered are answered together, in one pass of the model."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Together(Generic[Asked, Answered]):
    """Hands questions to ``answer`` in a thread of its own, one call at a time; nobody waits for others to arrive.

    ``answer`` takes up to ``most`` questions. If it raises for several, each is asked alone, so that only those it
    raises for get the error.
    """

    def __init__(self, answer: Callable[[Sequence[Asked]], Sequence[Answered]], most: int) -> None:
        self.answer = answer
        self.most = most
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._work: asyncio.Task[None] | None = None

    async def ask(self, question: Asked) -> Answered:
        """The answer to one question, or what ``answer`` raises for it."""
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._work is None:
            self._work = asyncio.create_task(self._answer_all())
        return await future

    async def _answer_all(self) -> None:
        while self._waiting:
            now, self._waiting = self._waiting[: self.most], self._waiting[self.most :]
            try:
                await self._answer_these(now)
            except Exception:
                for pair in now:
                    try:
                        await self._answer_these([pair])
                    except Exception as error:
                        if not pair[1].done():  # it is if whoever asked has gone
                            pair[1].set_exception(error)
        self._work = None

    async def _answer_these(self, pairs: Sequence[tuple[Asked, "asyncio.Future[Answered]"]]) -> None:
        loop = asyncio.get_running_loop()
        answers = await loop.run_in_executor(self._thread, self.answer, [question for question, _ in pairs])
        for (_, future), answered in zip(pairs, answers, strict=True):
            if not future.done():
                future.set_result(answered)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
