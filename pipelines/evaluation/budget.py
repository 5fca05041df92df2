"""The dollars that one evaluation may spend, with what is in flight set aside."""

from __future__ import annotations

from decimal import Decimal


class Budget:
    """A limit that is checked before each call is sent.

    Calls that turn out dearer than estimated make the later estimates dearer, too.
    """

    def __init__(self, limit_usd: Decimal | None, spent_usd: Decimal = Decimal(0)) -> None:
        """`spent_usd`: by earlier runs of the same study; a kill does not give money back."""
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self.reserved_usd = Decimal(0)
        self.reached = False
        self._estimated_usd = self._settled_usd = Decimal(0)

    def reserve(self, usd: Decimal) -> bool:
        """Set the estimate of a call aside; False, for good, when it does not fit any more."""
        if self.limit_usd is not None and not self.reached:
            factor = Decimal(1)
            if self._estimated_usd > 0:
                factor = max(factor, self._settled_usd / self._estimated_usd)
            expected = (self.reserved_usd + usd) * factor
            self.reached = self.spent_usd + expected > self.limit_usd
        if self.reached:
            return False
        self.reserved_usd += usd
        return True

    def settle(self, reserved_usd: Decimal, spent_usd: Decimal) -> None:
        """Book what the call did cost."""
        self.reserved_usd -= reserved_usd
        self.spent_usd += spent_usd
        self._estimated_usd += reserved_usd
        self._settled_usd += spent_usd
