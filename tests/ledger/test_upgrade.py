"""What revision 0001 kept of money is there after 0002."""

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from tests.ledger.one import settle
from trimtab.gateway import keys
from trimtab.ledger.accounts import account
from trimtab.ledger.prices import price_of
from trimtab.store.database import Database

ROWS = (
    "INSERT INTO accounts VALUES ('k', 100, 20, 30)",
    "INSERT INTO accounts VALUES ('free', NULL, 7, 0)",
    "INSERT INTO holds VALUES ('h', 'k', 'r1', 30, 5, 'open', NULL, false, 1, 2, 'gateway 1')",
    "INSERT INTO spends VALUES ('s', 'k', 'r0', 20, 'request', 1)",
    "INSERT INTO prices VALUES ('v', 3, 4, 10)",
    "INSERT INTO keys VALUES ('k', 'ci', 'tt_k', 'hash', 'team', 5, NULL)",
)


def test_money_survives_the_upgrade(empty_url: URL) -> None:
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "trimtab.store:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for row in ROWS:
            connection.execute(text(row))
    engine.dispose()
    database = Database(empty_url)
    database.migrate()
    with database.transaction() as connection:
        now = account(connection, "k")
        assert (now.limit_nano, now.spent_nano, now.held_nano) == (100, 20, 30)
        assert account(connection, "free").limit_nano is None
        assert price_of(connection, "v").completion_nano == 4
        [key] = keys.list(connection)
        assert (key.owner, key.scopes) == ("team", {"generate", "score", "models"})
        settle(connection, "h", 10)
        assert account(connection, "k").left_nano == 70
    database.close()
