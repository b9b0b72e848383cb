"""The home: the folder that holds one database, one blob store and what the loop leaves behind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy.engine import URL

from trimtab.errors import InUse, ProjectError, UserError
from trimtab.store.blobs import Blobs
from trimtab.store.database import Database
from trimtab.store.disk import storing, write_whole

FOLDER_NAME = ".trimtab"
DATABASE_URL = "TRIMTAB_DATABASE_URL"


class Home:
    """Folders are made when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.blobs = Blobs(self.root / "blobs")
        # What users sent and got back lies apart from artifacts: it is deleted some day.
        self.content = Blobs(self.root / "content")

    def database(self) -> Database:
        """The database at `TRIMTAB_DATABASE_URL`, else a SQLite file here; migrated. Close it."""
        url = os.environ.get(DATABASE_URL) or URL.create(
            "sqlite", database=str(self._folder() / "trimtab.db")
        )
        database = Database(url)
        try:
            database.migrate()
        except BaseException:
            database.close()
            raise
        return database

    @property
    def runs(self) -> Path:
        """Where training runs leave their files."""
        return self._folder("runs")

    @property
    def sockets(self) -> Path:
        """Where engines listen."""
        return self._folder("sockets")

    @property
    def versions(self) -> Path:
        """Where packages are materialised to be served."""
        return self._folder("versions")

    @property
    def bases(self) -> Path:
        """Where bases lie that were trained here, every weight of them."""
        return self._folder("bases")

    @property
    def unpaid(self) -> Path:
        """Where work notes what it spends, until the ledger has it."""
        return self._folder("unpaid")

    @contextmanager
    def lock(self, name: str, taken: str = "") -> Iterator[None]:
        """Hold `name` alone among all processes; it is free again when the process dies.

        Raises InUse, saying that it is `taken` and by which process, and StorageFull.
        """
        path = self._folder("locks") / f"{name}.lock"
        holder = path.with_suffix(".pid")
        lock = FileLock(path)
        try:
            with storing(path):
                lock.acquire(timeout=0)
        except Timeout:
            who = f"process {holder.read_text()}" if holder.exists() else "another process"
            taken = taken or f"'{name}' is in use"
            raise InUse(f"{taken} by {who}", hint="wait for it to end, or stop it") from None
        try:
            write_whole(holder, str(os.getpid()).encode())
            yield
        finally:
            lock.release()

    def _folder(self, name: str = "") -> Path:
        folder = self.root / name
        try:
            with storing(folder):
                if not self.root.exists():
                    self.root.mkdir(parents=True, exist_ok=True)
                ignore = self.root / ".gitignore"
                if not ignore.exists():
                    write_whole(ignore, b"*\n")
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder}: {error.strerror}", hint="name a folder you may write: --home FOLDER"
            ) from None
        return folder


def find_home(flag: Path | None = None, project_root: Path | None = None) -> Home:
    """The home that was named, else `TRIMTAB_HOME`, else `.trimtab` beside the project file."""
    if flag is not None:
        return Home(flag)
    if named := os.environ.get("TRIMTAB_HOME"):
        return Home(Path(named))
    if project_root is not None:
        return Home(project_root / FOLDER_NAME)
    raise ProjectError("no home and no project here", hint="name one: --home FOLDER or a project")
