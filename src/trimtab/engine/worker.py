"""The one thread that computes: it takes jobs and commands in, and the paths from step to step.

Knows nothing of what a request or a version is made of.
"""

import threading
from collections.abc import Callable
from functools import partial

from trimtab.engine.faults import unexpected
from trimtab.engine.jobs import PRIORITIES, Command, Job
from trimtab.engine.versions import Versions
from trimtab.errors import (
    EngineOverloaded,
    EngineUnavailable,
    TrimtabError,
    VersionNotLoaded,
)

MAX_WAITING = 256
"""Jobs before one that comes: of its priority or a higher one, so that nobody is refused for the
sake of what would give way to him.
"""


class Worker:
    """Computes from its making on. All methods but those of the thread may be called from any."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._arrived: list[Job | Command] = []
        self._commands: list[Command] = []
        self._changed = threading.Condition()
        self._closed = False
        self._stopped: EngineUnavailable | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs; it ends before it was told to by a fault."""
        return self._thread.is_alive()

    def add(self, order: Job | Command) -> None:
        """Raises EngineOverloaded when too many jobs wait, EngineUnavailable after `close`."""
        with self._changed:
            if self._closed:
                raise EngineUnavailable("the engine is stopping", hint="try again in a moment")
            if not isinstance(order, Command):
                self._check_room(PRIORITIES.index(order.request.priority))
            self._arrived.append(order)
            self._changed.notify()

    def _check_room(self, rank: int) -> None:
        arrived = sum(
            PRIORITIES.index(each.request.priority) <= rank
            for each in self._arrived
            if not isinstance(each, Command)
        )
        waiting = arrived + sum(path.waiting(rank) for path in self._versions.paths)
        if waiting >= MAX_WAITING:
            raise EngineOverloaded(
                f"{waiting} requests are waiting already", hint="try again later"
            )

    async def obey(self, command: Command) -> None:
        """Until it is done. Raises what it raises, and as `add` does."""
        self.add(command)
        try:
            await command.mailbox.get()
        finally:
            command.cancelled = True

    def close(self) -> None:
        """Admit nothing more; what was admitted is finished."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def stop(self) -> None:
        """End everything at the next step; the computing thread does it, for what it has just taken
        in is in no queue yet.
        """
        with self._changed:
            self._stopped = EngineUnavailable("the engine stopped", hint="try again in a moment")
            self._changed.notify()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        """The computing thread. What nobody foresaw fails whatever it holds, and ends it: the state
        of the paths is unknown then, and a process that is started again has none.
        """
        try:
            self._compute()
        except Exception as error:
            self._fail_all(unexpected(error))

    def _compute(self) -> None:
        """Take in what came, then one step of each path, and again."""
        while True:
            with self._changed:
                while not (self._arrived or self._commands or self._busy or self._closed):
                    self._changed.wait()
                arrived, self._arrived = self._arrived, []
            if self._stopped is not None:
                for each in arrived:
                    each.mailbox.put(self._stopped)
                arrived = []
                for path in self._versions.paths:
                    path.stop_all(self._stopped)
            if self._closed and not (arrived or self._commands or self._busy):
                return
            for each in arrived:
                if error := _tried(partial(self._take_in, each)):
                    each.mailbox.put(error)
            self._obey()
            for path in self._versions.paths:
                if path.busy:
                    path.step()

    @property
    def _busy(self) -> bool:
        return any(path.busy for path in self._versions.paths)

    def _take_in(self, each: Job | Command) -> None:
        if isinstance(each, Command):
            self._commands.append(each)
            return
        version = each.request.version
        held = self._versions.held.get(version)
        if held is None or any(command.version == version for command in self._commands):
            raise VersionNotLoaded(
                f"version {version} is being unloaded", hint="load it again, then ask again"
            )
        held.path.add(each)

    def _obey(self) -> None:
        """The commands in their order; one that unloads waits for its version's answers, and those
        on the same version wait for it.
        """
        waiting: list[Command] = []
        for command in self._commands:
            if command.cancelled:
                continue
            behind = any(before.version == command.version for before in waiting)
            held = self._versions.held.get(command.version)
            if behind or (command.leaves and held is not None and held.path.uses(command.version)):
                waiting.append(command)
                continue
            command.mailbox.put(_tried(command.work))
        self._commands = waiting

    def _fail_all(self, error: TrimtabError) -> None:
        """The answer to everything that was admitted; nothing more is."""
        with self._changed:
            self._closed = True
            orders = [*self._arrived, *self._commands]
            self._arrived, self._commands = [], []
        for order in orders:
            order.mailbox.put(error)
        for path in self._versions.paths:
            path.fail_all(error)


def _tried(work: Callable[[], None]) -> Exception | None:
    """What came of it instead."""
    try:
        work()
    except TrimtabError as error:
        return error
    except Exception as error:
        return unexpected(error)
    return None
