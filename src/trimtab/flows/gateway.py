"""A gateway process: `python -m trimtab.flows.gateway`, started by the supervisor."""

import argparse
import logging
from pathlib import Path

from trimtab.child import leave_with_parent
from trimtab.flows.served import Engines
from trimtab.gateway.app import create_app
from trimtab.gateway.process import serve
from trimtab.store.home import Home


def main() -> None:
    parser = argparse.ArgumentParser(prog="trimtab.flows.gateway")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int, required=True)
    given = parser.parse_args()
    leave_with_parent(given.parent_fd)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s gateway: %(message)s")
    home = Home(given.home)
    database = home.database()
    engines = Engines(home, database)
    app = create_app(database, engines.ready, home.content, engines.encoding)
    serve(app, given.listen_fd)


if __name__ == "__main__":
    main()
