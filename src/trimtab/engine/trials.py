"""A version that is loaded with a proof answers nobody before it has repeated it.

The engine itself keeps that promise, so it holds for every client of it: a gateway that saw the
version proved before the engine was restarted, too. Knows nothing of how a version is computed.
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Container
from weakref import WeakValueDictionary

from trimtab.canonical import short
from trimtab.errors import EngineError, IdentityError, VersionNotLoaded
from trimtab.inference import Probe, Proof, Runtime, Score, ScoreRequest, VersionFiles

Scoring = Callable[[ScoreRequest], Awaitable[list[Score]]]


class Trials:
    """Which of an engine's versions are on trial, and which have passed. `held` are all of them;
    `load`, `unload` and `score` are what the engine does for whoever is not asked for a proof.
    """

    def __init__(
        self,
        held: Container[str],
        load: Callable[[VersionFiles], Awaitable[None]],
        unload: Callable[[str], Awaitable[None]],
        score: Scoring,
    ) -> None:
        self._held, self._load, self._unload, self._score = held, load, unload, score
        self._passed: set[str] = set()
        self._open: set[str] = set()
        # A lock lasts as long as somebody has it: event loops come and go, and it is of one.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def check(self, version: str) -> None:
        """Raises VersionNotLoaded for a version that may not answer yet."""
        if version in self._open:
            raise VersionNotLoaded(
                f"version {version} has not repeated its golden probes yet",
                hint="load it: that waits until it has",
            )

    def doubt(self) -> None:
        """What computes may be another than before: what passed has to pass again."""
        self._open |= self._passed
        self._passed.clear()

    def forget(self, version: str) -> None:
        self._passed.discard(version)
        self._open.discard(version)

    async def load(self, files: VersionFiles, runtime: Runtime) -> None:
        """One caller at a time; the others find it done. What fails is unloaded again."""
        async with self._lock(files.version):
            if files.proof is None:
                await self._load(files)
                self._open.discard(files.version)
            else:
                await self._prove(files, files.proof, runtime)

    async def unload(self, version: str) -> None:
        """After whoever loads it now. Who asks for it meanwhile has it loaded and proved anew, and
        is not told that it is there while it goes.
        """
        async with self._lock(version):
            await self._unload(version)

    def _lock(self, version: str) -> asyncio.Lock:
        return self._locks.setdefault(version, asyncio.Lock())

    async def _prove(self, files: VersionFiles, proof: Proof, runtime: Runtime) -> None:
        """One that was held before without a proof answers on while it is judged: who loaded it so
        judges it by other means.
        """
        version = files.version
        ours = version not in self._held
        if ours:
            # Whatever passed under this name is gone.
            self._passed.discard(version)
            self._open.add(version)
        try:
            await self._load(files)
            if version in self._passed:
                return
            ours = True
            await judge(version, proof, runtime, self._score)
            if version not in self._held:
                raise VersionNotLoaded(
                    f"version {version} was unloaded while it was on trial",
                    hint="load it again, then ask again",
                )
        except BaseException:
            if ours:
                # It stays on trial until it is gone, whatever comes between.
                self._open.add(version)
                await self._unload(version)
            raise
        self._passed.add(version)
        self._open.discard(version)


async def judge(version: str, proof: Proof, runtime: Runtime, score: Scoring) -> None:
    """Raises IdentityError where the probes are further off than is allowed, and EngineError where
    a token's difference is not a number.
    """

    async def off(probe: Probe) -> list[float]:
        asked = ScoreRequest(version, probe.prompt, (probe.completion,), secrets.token_hex(8))
        [found] = await score(asked)
        pairs = zip(probe.logprobs, found.logprobs, strict=True)
        return [abs(told - said) for told, said in pairs]

    asking = [asyncio.ensure_future(off(probe)) for probe in proof.probes]
    try:
        differences = [each for row in await asyncio.gather(*asking) for each in row]
    finally:
        # Where one fails, nobody waits for the others.
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    if not all(map(math.isfinite, differences)):
        raise EngineError(
            "a golden probe scored a log-probability that is not finite",
            hint="are the weights damaged, or is the dtype too narrow for this model?",
        )
    if objection := proof.objection(differences, runtime):
        raise IdentityError(
            f"version {short(version)} was loaded and does not answer as itself: {objection}",
            hint="does the engine hold another model, or is it of another runtime or dtype? verify"
            " the version there first",
        )
