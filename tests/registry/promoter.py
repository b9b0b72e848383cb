"""Promotes whichever of two versions is not live, until it is killed."""

import sys

from trimtab.errors import InUse
from trimtab.registry import deployments
from trimtab.store.database import Database


def main(url: str, first: str, second: str) -> None:
    database = Database(url)
    print("ready", flush=True)
    while True:
        with database.read() as connection:
            seen = deployments.get(connection, "desk")
        other = second if seen.live == first else first
        try:
            with database.transaction() as connection:
                deployments.promote(connection, "desk", other, seen.generation, "turn", {})
        except InUse:
            continue  # another writer was quicker


if __name__ == "__main__":
    main(*sys.argv[1:])
