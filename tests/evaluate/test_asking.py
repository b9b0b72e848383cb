import asyncio

import pytest

from tests.evaluate.scripted import Scripted
from trimtab.errors import EngineUnavailable
from trimtab.evaluate.asking import in_batches
from trimtab.text.chat import ChatFormat


def test_replies_come_in_the_order_of_the_questions(chat_format: ChatFormat) -> None:
    async def slower_first(question: int) -> int:
        await asyncio.sleep(0.01 * (3 - question))
        return question * 2

    engine = Scripted(chat_format.tokenizer, {})
    assert asyncio.run(in_batches(engine, [0, 1, 2, 3], slower_first)) == [0, 2, 4, 6]


def test_the_first_error_stops_the_rest(chat_format: ChatFormat) -> None:
    ended: list[int] = []

    async def work(question: int) -> int:
        if question == 1:
            raise EngineUnavailable("gone")
        await asyncio.sleep(60)
        ended.append(question)
        return question

    engine = Scripted(chat_format.tokenizer, {}, max_batch=2)
    with pytest.raises(EngineUnavailable, match="gone"):
        asyncio.run(in_batches(engine, range(9), work))
    assert ended == []
