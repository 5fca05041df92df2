"""How many requests may be in flight: fewer after a 429, slowly more after answers."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType


class Throttle:
    """Slots for the attempts of one provider: additive increase, multiplicative decrease.

    A 429 halves the slots and lets nobody start before its `Retry-After` has passed; each answer
    gives back 1 / slots, so that a round of answers adds one slot.
    """

    def __init__(self, most: int) -> None:
        """Start with `most` slots."""
        self.most = most
        self.slots = float(most)
        self.in_flight = 0
        self._not_before = 0.0
        self._halved_at = 0.0
        self._free = asyncio.Condition()

    async def __aenter__(self) -> None:
        """Wait for a slot."""
        while True:
            if (wait_s := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            async with self._free:
                await self._free.wait_for(lambda: self.in_flight < int(self.slots))
                if self._not_before <= time.monotonic():
                    self.in_flight += 1
                    return

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the slot back."""
        self.in_flight -= 1
        async with self._free:
            self._free.notify(max(1, int(self.slots) - self.in_flight))

    def slow_down(self, retry_after_s: float) -> None:
        """The provider said 429. A burst of them, sent together, counts once."""
        now = time.monotonic()
        self._not_before = max(self._not_before, now + retry_after_s)
        if now - self._halved_at > 1.0:
            self._halved_at = now
            self.slots = max(1.0, self.slots / 2)

    def speed_up(self) -> None:
        """An answer came."""
        self.slots = min(float(self.most), self.slots + 1 / self.slots)
