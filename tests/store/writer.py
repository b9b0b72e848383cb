"""Moves two counters together, each by its own statement, until it is killed."""

import sys

from sqlalchemy import text

from trimtab.store.database import Database


def main(url: str) -> None:
    database = Database(url)
    print("ready", flush=True)
    while True:
        with database.transaction(durable=False) as connection:
            for name in ("left", "right"):
                statement = text("UPDATE counters SET value = value + 1 WHERE name = :name")
                connection.execute(statement, {"name": name})


if __name__ == "__main__":
    main(sys.argv[1])
