"""Delivers the outbox: a process beside a run, so that no server that is slow, down or hung can
slow or end the training.

python -m trimtab.flows.publishing --home HOME [--parent-fd FD]
"""

import argparse
import time
from contextlib import closing, suppress
from pathlib import Path

from trimtab.child import leave_with_parent
from trimtab.errors import InUse
from trimtab.flows import mlflow
from trimtab.store import outbox
from trimtab.store.clock import now_us
from trimtab.store.database import Database
from trimtab.store.home import Home

# No project has a name like this.
LOCK = "_outbox"
EVERY_S, MOST = 1.0, 200
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
MLFLOW = "mlflow:"


def deliver_once(database: Database) -> list[str]:
    """Send what waits, topic by topic; the errors of the topics that could not be reached."""
    with database.read() as connection:
        topics = outbox.topics(connection)
    return [error for topic in topics if (error := _deliver_topic(database, topic))]


def _deliver_topic(database: Database, topic: str) -> str:
    while True:
        with database.transaction() as connection:
            messages = outbox.of_topic(connection, topic, MOST)
            outbox.trying(connection, messages)
        if not messages:
            return ""
        try:
            mlflow.deliver(topic.removeprefix(MLFLOW), messages)
        except Exception as error:  # whatever a foreign client raises, the messages wait
            said = f"{topic}: {str(error).strip().splitlines()[0][:300]}"
            with database.transaction() as connection:
                outbox.failed(connection, messages, said)
            return said
        with database.transaction() as connection:
            outbox.delivered(connection, messages, now_us())


def deliver(home: Home) -> tuple[int, list[str]]:
    """Send all that waits in a home: how much still waits, and why. Raises InUse where another
    process delivers.
    """
    with closing(home.database()) as database:
        with home.lock(LOCK):
            errors = deliver_once(database)
        with database.read() as connection:
            return outbox.waiting(connection), errors


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parent-fd", type=int)
    given = parser.parse_args()
    if given.parent_fd is not None:
        leave_with_parent(given.parent_fd)
    home = Home(given.home)
    database = home.database()
    failures = 0
    while True:
        errors: list[str] = []
        # Whoever else delivers does this one's work.
        with suppress(InUse), home.lock(LOCK):
            errors = deliver_once(database)
        failures = failures + 1 if errors else 0
        time.sleep(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1] if failures else EVERY_S)


if __name__ == "__main__":
    main()
