"""Knows keys by sight for a moment, so that a busy key is not looked up for each request.

Only where the key is looked at again, in the transaction that holds the price: a revoked or expired
key pays for nothing, from the next request on. A secret that was rotated away opens such a route
for a second longer than its grace.
"""

import hashlib
import time

from trimtab.gateway import keys
from trimtab.gateway.keys import Key
from trimtab.gateway.off_loop import OffLoop
from trimtab.gateway.shared import Shared
from trimtab.store.clock import now_us

KNOWN_S = 1.0
MOST = 10_000


class Doorkeeper:
    """Tells whose a presented key is. Raises StoreError."""

    def __init__(self, database: OffLoop) -> None:
        self._database = database
        self._known: dict[bytes, tuple[float, Key]] = {}
        self._looking: Shared[Key | None] = Shared()

    async def __call__(self, presented: str, looked_at_again: bool) -> Key | None:
        """None where it is nobody's. `looked_at_again`: before anything is done or told."""
        # By the whole key's hash: by less, another's key would open.
        seen_as = hashlib.sha256(presented.encode()).digest()
        now = time.monotonic()
        known = self._known.get(seen_as)
        if looked_at_again and known is not None and now - known[0] < KNOWN_S:
            return known[1] if known[1].opens(now_us()) else None

        async def look() -> Key | None:
            return await self._database.read(
                lambda connection: keys.authenticate(connection, presented)
            )

        # Who is looked at again may share a look that began a moment ago; nobody else may.
        key = await (self._looking.do(seen_as, look) if looked_at_again else look())
        if len(self._known) >= MOST:
            self._known.clear()
        if key is None:
            self._known.pop(seen_as, None)
        else:
            self._known[seen_as] = (now, key)
        return key
