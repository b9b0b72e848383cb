"""The flows' tables: the journal of steps, the leases that make one process the leader, and what
computes for each base.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    RowMapping,
    String,
    Table,
    Text,
    insert,
    or_,
    select,
    update,
)

from trimtab.store.metadata import metadata
from trimtab.store.rows import insert_once

steps = Table(
    "steps",
    metadata,
    Column("project", Text, primary_key=True),
    Column("step", String(16), primary_key=True),
    Column("input", String(64), primary_key=True),
    Column("output", Text),
    Column("started_us", BigInteger, nullable=False),
    Column("finished_us", BigInteger),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
)

backends = Table(
    "backends",
    metadata,
    Column("base_hash", String(64), primary_key=True),
    Column("vllm_url", Text, nullable=False),
    Column("vllm_env", Text, nullable=False),
    Column("quantisation", Text, nullable=False, server_default="none"),
)


def find_output(connection: Connection, project: str, step: str, key: str) -> str | None:
    """The output of a step that was finished with this input, as JSON."""
    query = select(steps.c.output).where(
        steps.c.project == project,
        steps.c.step == step,
        steps.c.input == key,
        steps.c.finished_us.is_not(None),
    )
    return connection.execute(query).scalar_one_or_none()


def find_backend(connection: Connection, base: str) -> RowMapping | None:
    """What was declared to compute for a base."""
    return (
        connection.execute(select(backends).where(backends.c.base_hash == base)).mappings().first()
    )


def start_step(connection: Connection, project: str, step: str, key: str, now: int) -> None:
    """Note that a step begins; beginning again after a kill moves its start."""
    where = (steps.c.project == project, steps.c.step == step, steps.c.input == key)
    if not connection.execute(update(steps).where(*where).values(started_us=now)).rowcount:
        row = {"project": project, "step": step, "input": key, "started_us": now}
        connection.execute(insert(steps).values(row))


def finish_step(
    connection: Connection, project: str, step: str, key: str, output: str, now: int
) -> None:
    where = (steps.c.project == project, steps.c.step == step, steps.c.input == key)
    connection.execute(update(steps).where(*where).values(output=output, finished_us=now))


def list_steps(connection: Connection, project: str) -> list[RowMapping]:
    """Every step of a project in the order they began."""
    query = select(steps).where(steps.c.project == project).order_by(steps.c.started_us)
    return list(connection.execute(query).mappings())


def take_lease(connection: Connection, name: str, owner: str, now: int, expires: int) -> bool:
    """Take or renew a lease; False where another owner holds it."""
    row = {"name": name, "owner": owner, "expires_us": expires}
    if insert_once(connection, leases, row):
        return True
    free = or_(leases.c.owner == owner, leases.c.expires_us < now)
    taken = update(leases).where(leases.c.name == name, free)
    return connection.execute(taken.values(owner=owner, expires_us=expires)).rowcount == 1
