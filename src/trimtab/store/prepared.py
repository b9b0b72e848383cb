"""Statements that are run for every request, put into the driver's words once.

SQLAlchemy writes them, for either database; its way from a statement to the driver costs several
times what SQLite then does, so that they take the driver's cursor themselves. They run in the
transaction of the connection that they are handed, and raise what SQLAlchemy raises.
"""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Select, Table, Update, bindparam
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

Reader = Callable[[Any], Any]
# Rows that one statement takes: the powers of two below, so that few statements are prepared.
_MOST_ROWS = 32
_CURSOR = "trimtab_cursor"


class Query:
    """A SELECT. `over` names the parameter that its `IN` is asked of."""

    def __init__(self, statement: Select[Any], over: str | None = None) -> None:
        self._statement = statement
        self._over = over
        names = [column.name for column in statement.selected_columns]
        self._row: Any = namedtuple("_row", names)  # type: ignore[misc]
        self._texts: dict[tuple[str, int], _Text] = {}
        self._readers: dict[str, list[tuple[int, Reader]]] = {}

    def rows(self, connection: Connection, **values: Any) -> Sequence[Any]:
        """What is found: named tuples, in the order of the columns."""
        dialect = connection.dialect
        many: list[Any] = [] if self._over is None else list(values.pop(self._over))
        if self._over is not None and not many:
            return ()
        if many:
            # The last one stands for those that are missing to the next power of two, so that few
            # statements are prepared.
            many += many[-1:] * ((1 << (len(many) - 1).bit_length()) - len(many))
        place = (dialect.name, len(many))
        if place not in self._texts:
            self._texts[place] = _text(self._statement, dialect, self._over, len(many))
        text = self._texts[place]
        for name, one in zip(text.expanded, many, strict=True):
            values[name] = one
        found = run(connection, text.sql, text.values(values)).fetchall()
        if dialect.name not in self._readers:
            self._readers[dialect.name] = list(_readers(self._statement, dialect))
        for at, read in self._readers[dialect.name]:
            found = [(*row[:at], read(row[at]), *row[at + 1 :]) for row in found]
        return [self._row._make(row) for row in found]


class Put:
    """An INSERT of whole rows. With a `key`, a row whose key stands has its other columns replaced,
    but for those in `keep`.

    Many rows are one step of the driver: it lets go of the interpreter for each step, and under
    load waits for its turn after it, while other processes wait for the database.
    """

    def __init__(self, table: Table, key: Sequence[str] = (), keep: Sequence[str] = ()) -> None:
        self._table = table
        self._key = list(key)
        names = [column.name for column in table.columns]
        self._names = names
        self._replaced = [name for name in names if name not in (*key, *keep)]
        self._values = itemgetter(*names)
        self._texts: dict[tuple[str, int], tuple[str, Sequence[int] | None]] = {}

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """`rows` have a value for each column."""
        at = 0
        while at < len(rows):
            count = min(_MOST_ROWS, 1 << (len(rows) - at).bit_length() - 1)
            self._run(connection, rows[at : at + count])
            at += count

    def _run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        place = (connection.dialect.name, len(rows))
        if place not in self._texts:
            self._texts[place] = self._text(connection.dialect, len(rows))
        sql, order = self._texts[place]
        if order is not None:
            values = [value for row in rows for value in self._values(row)]
            run(connection, sql, [values[at] for at in order])
            return
        numbered = enumerate(rows)
        run(connection, sql, {_of(n, name): row[name] for n, row in numbered for name in row})

    def _text(self, dialect: Dialect, count: int) -> tuple[str, Sequence[int] | None]:
        """A statement for so many rows, and in which order it counts the values of all of them,
        where they are not named."""
        insert = sqlite_insert if dialect.name == "sqlite" else postgresql_insert
        named = (_of(n, name) for n in range(count) for name in self._names)
        places = {name: at for at, name in enumerate(named)}
        statement: Any = insert(self._table).values(
            [{name: bindparam(_of(n, name)) for name in self._names} for n in range(count)]
        )
        if self._key:
            replaced = {name: statement.excluded[name] for name in self._replaced}
            statement = statement.on_conflict_do_update(index_elements=self._key, set_=replaced)
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        order = _order(dialect, compiled.positiontup)
        return compiled.string, None if order is None else [places[each] for each in order]


def _of(number: int, name: str) -> str:
    return f"{name}__{number}"


class Change:
    """An INSERT, UPDATE or DELETE, run for rows whose names are always the same."""

    def __init__(self, statement: Insert | Update | Delete) -> None:
        self._statement = statement
        self._texts: dict[str, _Text] = {}

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        dialect = connection.dialect
        if dialect.name not in self._texts:
            self._texts[dialect.name] = _text(self._statement, dialect, names=list(rows[0]))
        text = self._texts[dialect.name]
        run(connection, text.sql, [text.values(row) for row in rows], many=True)


def run(connection: Connection, sql: str, values: Any = (), *, many: bool = False) -> Any:
    """The driver's cursor, after it has run this: to be read to its end before the next run.

    Raises what SQLAlchemy raises.
    """
    cursor = _cursor(connection)
    try:
        if many:
            cursor.executemany(sql, values)
        else:
            cursor.execute(sql, values)
    except connection.dialect.loaded_dbapi.Error as error:
        _forget_where_lost(connection, cursor, error)
        base = connection.dialect.loaded_dbapi.Error
        raise DBAPIError.instance(
            sql, None, error, base, hide_parameters=True, dialect=connection.dialect
        ) from error
    return cursor


def _cursor(connection: Connection) -> Any:
    """One for the life of the driver's connection: sqlite3 keeps count of each that is made."""
    kept = connection.info.get(_CURSOR)
    if kept is None:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        kept = connection.info[_CURSOR] = driver.cursor()
    return kept


def close_cursor(_: Any, record: Any) -> None:
    """For SQLAlchemy's event "close": SQLite keeps its file open for as long as a cursor is."""
    if (kept := record.info.pop(_CURSOR, None)) is not None:
        kept.close()


def _forget_where_lost(connection: Connection, cursor: Any, error: Any) -> None:
    """A connection whose server has gone is not for the pool."""
    driver = connection.connection.dbapi_connection
    if connection.dialect.is_disconnect(error, driver, cursor):
        connection.invalidate(error)


@dataclass(frozen=True, slots=True)
class _Text:
    """A statement as the driver takes it. `order` has the parameters' names where it counts them,
    and is None where it names them; `expanded` has those that one list stands for."""

    sql: str
    order: tuple[str, ...] | None
    expanded: tuple[str, ...] = ()

    def values(self, given: Mapping[str, Any]) -> Any:
        return given if self.order is None else [given[name] for name in self.order]


def _text(
    statement: Any,
    dialect: Dialect,
    over: str | None = None,
    many: int = 0,
    names: list[str] | None = None,
) -> _Text:
    compiled = statement.compile(dialect=dialect, column_keys=names)
    assert isinstance(compiled, SQLCompiler)
    if over is None:
        return _Text(compiled.string, _order(dialect, compiled.positiontup))
    every = dict.fromkeys(compiled.bind_names.values())
    told = compiled.construct_expanded_state({**every, over: [None] * many})
    expanded = tuple(told.parameter_expansion[over])
    return _Text(told.statement, _order(dialect, told.positiontup), expanded)


def _order(dialect: Dialect, names: Iterable[str] | None) -> tuple[str, ...] | None:
    return tuple(names or ()) if dialect.positional else None


def _readers(statement: Select[Any], dialect: Dialect) -> Iterable[tuple[int, Reader]]:
    """The columns that the driver does not hand over as what they are, and how to read them."""
    for at, column in enumerate(statement.selected_columns):
        read = column.type.dialect_impl(dialect).result_processor(dialect, None)
        if read is not None:
            yield at, read
