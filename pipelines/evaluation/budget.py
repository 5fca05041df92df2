"""The dollars that one evaluation may spend, with what is in flight set aside."""

from __future__ import annotations

from decimal import Decimal


class Budget:
    """A limit that is checked before each call is sent."""

    def __init__(self, limit_usd: Decimal | None, spent_usd: Decimal = Decimal(0)) -> None:
        """`spent_usd`: by earlier runs of the same study; a kill does not give money back."""
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self.reserved_usd = Decimal(0)
        self.reached = False

    def reserve(self, usd: Decimal) -> bool:
        """Set the estimate of a call aside; False, for good, when it does not fit any more."""
        if self.limit_usd is not None and self.reached is False:
            self.reached = self.spent_usd + self.reserved_usd + usd > self.limit_usd
        if self.reached:
            return False
        self.reserved_usd += usd
        return True

    def settle(self, reserved_usd: Decimal, spent_usd: Decimal) -> None:
        """Book what the call did cost."""
        self.reserved_usd -= reserved_usd
        self.spent_usd += spent_usd
