"""Reserves and settles on one account until its limit covers no more."""

import random
import sys

from trimtab.errors import BudgetExceeded
from trimtab.ledger.holds import reserve, settle
from trimtab.store.database import Database

AMOUNT = 100


def main(url: str, key: str, name: str) -> None:
    database = Database(url)
    rng = random.Random(name)
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        try:
            with database.transaction(durable=False) as connection:
                hold = reserve(connection, key, f"{name}-{number}", AMOUNT, 30, expires_us=2**61)
        except BudgetExceeded:
            break
        with database.transaction(durable=False) as connection:
            settle(connection, hold.id, rng.randint(1, AMOUNT))
    database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
