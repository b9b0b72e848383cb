"""The outbox: what is to be told to others, kept until they have it.

A message is written in the transaction of what it tells of, or cheaply beside it, and delivered by
somebody else, later, in the order it was written. A message with the key of one that stands is that
one. Knows no addressee.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    Table,
    Text,
    Update,
    func,
    select,
    update,
)

from trimtab.store.metadata import metadata
from trimtab.store.rows import insert_once

outbox = Table(
    "outbox",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("payload", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("delivered_us", BigInteger),
    Column("error", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message that waits. More than no `attempts` mean that it may have arrived already."""

    topic: str
    key: str
    payload: str
    attempts: int


def put(connection: Connection, topic: str, key: str, payload: str, now_us: int) -> bool:
    """Write a message; False where its key stands already, delivered or not."""
    row = {
        "topic": topic,
        "key": key,
        "payload": payload,
        "created_us": now_us,
        "attempts": 0,
        "error": "",
    }
    return insert_once(connection, outbox, row)


def waiting(connection: Connection, topic: str | None = None) -> int:
    """How many messages wait, of a topic or of all."""
    query = select(func.count()).select_from(outbox).where(outbox.c.delivered_us.is_(None))
    if topic is not None:
        query = query.where(outbox.c.topic == topic)
    return connection.execute(query).scalar_one()


def goes(connection: Connection, topic: str) -> bool:
    """Whether messages of a topic wait, and none of them in vain so far."""
    waits = (outbox.c.topic == topic, outbox.c.delivered_us.is_(None))
    errors = select(func.count(), func.max(outbox.c.error)).where(*waits)
    count, error = connection.execute(errors).one()
    return bool(count) and not error


def topics(connection: Connection) -> list[str]:
    """The topics that have messages waiting."""
    query = select(outbox.c.topic).where(outbox.c.delivered_us.is_(None)).distinct()
    return sorted(connection.execute(query).scalars())


def of_topic(connection: Connection, topic: str, limit: int) -> list[Message]:
    """The messages of a topic that wait, in the order they were written."""
    query = (
        select(outbox)
        .where(outbox.c.topic == topic, outbox.c.delivered_us.is_(None))
        .order_by(outbox.c.created_us, outbox.c.key)
        .limit(limit)
    )
    return [
        Message(row["topic"], row["key"], row["payload"], row["attempts"])
        for row in connection.execute(query).mappings()
    ]


def trying(connection: Connection, messages: Sequence[Message]) -> None:
    """Before they are sent: from here on they may have arrived."""
    for message in messages:
        connection.execute(_of(message).values(attempts=outbox.c.attempts + 1))


def delivered(connection: Connection, messages: Sequence[Message], now_us: int) -> None:
    """They have arrived. Their keys stand, their content is not kept."""
    for message in messages:
        connection.execute(_of(message).values(delivered_us=now_us, payload="", error=""))


def failed(connection: Connection, messages: Sequence[Message], error: str) -> None:
    """They could not be sent, and why."""
    for message in messages:
        connection.execute(_of(message).values(error=error))


def _of(message: Message) -> Update:
    return update(outbox).where(outbox.c.topic == message.topic, outbox.c.key == message.key)
