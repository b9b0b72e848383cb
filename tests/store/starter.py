"""Migrates a database as every verb does when it starts."""

import sys

from trimtab.store.database import Database


def main(url: str) -> None:
    print("ready", flush=True)
    database = Database(url)
    database.migrate()
    database.close()


if __name__ == "__main__":
    main(sys.argv[1])
