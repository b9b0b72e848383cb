"""Reserves and settles for one key until a limit covers no more: its own, or that of a payer."""

import random
import sys

from tests.ledger.one import reserve, settle
from trimtab.errors import BudgetExceeded
from trimtab.store.database import Database

AMOUNT = 100


def main(url: str, key: str, name: str, *payers: str) -> None:
    database = Database(url)
    rng = random.Random(name)
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        request = f"{name}-{number}"
        try:
            with database.transaction(durable=False) as connection:
                hold = reserve(connection, key, request, AMOUNT, 30, 2**61, payers=payers)
        except BudgetExceeded:
            break
        with database.transaction(durable=False) as connection:
            settle(connection, hold.id, rng.randint(1, AMOUNT))
    database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
