"""A child process that cannot outlive its parent, and the child's side of that promise.

The parent holds the write end of a pipe and the child the read end. However the parent dies, the
kernel closes the pipe, and the child sees the end of it and leaves. A foreign program, which knows
nothing of pipes, has a keeper that does: this module, run as a program.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0
GRACE_S = 5.0
PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass
class Child:
    """One kind of process that is kept running.

    `arguments` follow `python -m`; `fds` are inherited beside the parent's pipe, whose number the
    child finds behind `--parent-fd`. `environment` is set, or unset where None, beside our own;
    `python` is the interpreter. What it says goes to the end of the file `words`, else to our own
    stderr.
    """

    name: str
    arguments: Sequence[str]
    fds: tuple[int, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    python: str = sys.executable
    words: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    _started: float = 0.0
    _failures: int = 0
    _not_before: float = 0.0
    _pipe: int | None = field(default=None, repr=False)

    def start(self) -> None:
        """Raises OSError where the machine has no process or descriptor to give."""
        read_end, write_end = os.pipe()
        self._pipe = write_end
        try:
            with self._hearing() as words:
                self.process = subprocess.Popen(
                    [self.python, "-m", *self.arguments, "--parent-fd", str(read_end)],
                    pass_fds=(read_end, *self.fds),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=words,
                    env=self._environment(),
                    # Ctrl-C in a terminal reaches the whole group: children are stopped in order.
                    start_new_session=True,
                )
        except OSError:
            self._close_pipe()
            raise
        finally:
            os.close(read_end)
        self._started = time.monotonic()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tend(self) -> bool:
        """Start the child if it is not there and its backoff is over; True where it was started.

        A start that the machine refuses is a death too: it is tried again after the backoff.
        """
        if self.alive:
            return False
        now = time.monotonic()
        if self.process is not None:
            self._bury(now)
        if now < self._not_before:
            return False
        try:
            self.start()
        except OSError:
            self._started = now
            self._bury(now)
            return False
        self.restarts += 1
        return True

    @contextlib.contextmanager
    def _hearing(self) -> Iterator[int | None]:
        """A descriptor for what the child says; None where that is our own stderr."""
        if self.words is None:
            yield None
            return
        descriptor = os.open(self.words, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _environment(self) -> dict[str, str]:
        found: dict[str, str | None] = {**os.environ, **self.environment}
        return {name: value for name, value in found.items() if value is not None}

    def _bury(self, now: float) -> None:
        """Note a death, and when the next start may be."""
        steady = now - self._started >= STEADY_S
        self._failures = 0 if steady else self._failures
        self._not_before = now + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        self.process = None
        self._close_pipe()

    def ask_to_leave(self) -> None:
        """Tell the child to end what it does, and go on."""
        if self.process is not None and self.alive:
            self.process.send_signal(signal.SIGTERM)

    def stop(self, deadline_s: float) -> None:
        """Ask the child to leave, and make it leave when the deadline passes."""
        if self.process is None:
            return
        if self.alive:
            self.ask_to_leave()
            try:
                self.process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def stop_together(children: Sequence[Child], deadline_s: float) -> None:
    """Ask all to leave at once, and make those leave that are there when the deadline passes: none
    goes on as before while another one ends.
    """
    deadline = time.monotonic() + deadline_s
    for child in children:
        child.ask_to_leave()
    for child in children:
        child.stop(max(0.0, deadline - time.monotonic()))


def leave_with_parent(parent_fd: int) -> None:
    """In a child: leave at once when the parent is gone, however it went."""

    def watch() -> NoReturn:
        while os.read(parent_fd, 1):
            pass
        os._exit(0)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def foreign(command: Sequence[str]) -> list[str]:
    """The arguments of a `Child` that runs a foreign program: any command, its words to stderr."""
    return ["trimtab.child", *command]


def keep(command: Sequence[str], parent_fd: int) -> int:
    """Run a foreign program, and end it with all that it started when told to or when the parent
    is gone; its exit code.
    """
    program = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        # A group of its own, so that what it starts can be ended with it; and where the keeper
        # itself is killed, the kernel tells the program.
        start_new_session=True,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )

    def end() -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(program.pid, number)
            except ProcessLookupError:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(GRACE_S)

    def watch() -> NoReturn:
        while os.read(parent_fd, 1):
            pass
        end()
        os._exit(0)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    # In a thread: here it would wait for a program whose end the interrupted wait below has to see.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end, name="end").start())
    code = program.wait()
    # What the program started and left behind goes too.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    return code


if __name__ == "__main__":
    *words, _, descriptor = sys.argv[1:]
    sys.exit(keep(words, int(descriptor)))
