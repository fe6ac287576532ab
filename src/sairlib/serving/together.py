"""Questions that arrive while others are answered are answered together, in one pass of the model."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Together(Generic[Asked, Answered]):
    """Hands questions to ``answer``, up to ``most`` at once; nobody waits for others to arrive.

    The event loop itself calls it, and meanwhile hears nobody: with a thread beside it each would wait for the other,
    passes would be smaller, and all answers later. If ``answer`` raises for several questions, each is asked alone, so
    that only those it raises for get the error.
    """

    def __init__(self, answer: Callable[[Sequence[Asked]], Sequence[Answered]], most: int) -> None:
        self.answer = answer
        self.most = most
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []

    async def ask(self, question: Asked) -> Answered:
        """The answer to one question, or what ``answer`` raises for it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answered] = loop.create_future()
        self._waiting.append((question, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._answer_waiting)  # after all that has arrived is read
        return await future

    def _answer_waiting(self) -> None:
        now, self._waiting = self._waiting[: self.most], self._waiting[self.most :]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._answer_waiting)
        try:
            self._answer_these(now)
        except Exception:
            for pair in now:
                try:
                    self._answer_these([pair])
                except Exception as error:
                    if not pair[1].done():  # else the others of this pass would never be answered
                        pair[1].set_exception(error)

    def _answer_these(self, pairs: Sequence[tuple[Asked, "asyncio.Future[Answered]"]]) -> None:
        answers = self.answer([question for question, _ in pairs])
        for (_, future), answered in zip(pairs, answers, strict=True):
            if not future.done():  # it is if whoever asked has gone
                future.set_result(answered)
