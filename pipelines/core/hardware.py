"""A machine of our own: what it is, and what an hour of it costs under each contract."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, Field, model_validator

from pipelines.core.records import Record

End = Literal["low", "likely", "high"]
RentalContract = Literal["on_demand", "spot", "reserved_1y", "reserved_3y"]
Contract = Literal["on_demand", "spot", "reserved_1y", "reserved_3y", "own"]
END_NAMES: tuple[End, ...] = ("low", "likely", "high")
HOURS_PER_YEAR = 8760
OTHER: dict[End, End] = {"low": "high", "likely": "likely", "high": "low"}
"""Where a figure is taken that lowers the cost as it grows."""


class Figure(Record):
    """A number that is not known exactly; a plain number means that all three are equal."""

    low: Decimal
    likely: Decimal
    high: Decimal
    source: str | None = None
    """None = the source of the record that it stands in."""
    checked_on: date | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return dict.fromkeys(("low", "likely", "high"), Decimal(str(value)))
        return value

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.likely <= self.high:
            raise ValueError(
                f"low {self.low}, likely {self.likely}, high {self.high} must not fall"
            )
        return self

    @classmethod
    def of(cls, value: Decimal | float | str) -> Figure:
        """A number that is known."""
        number = Decimal(str(value))
        return cls(low=number, likely=number, high=number)

    def at(self, end: End) -> Decimal:
        """One of the three."""
        return {"low": self.low, "likely": self.likely, "high": self.high}[end]


def _not_negative(figure: Figure) -> Figure:
    if figure.low < 0:
        raise ValueError(f"{figure.low} is below 0")
    return figure


def _positive(figure: Figure) -> Figure:
    if figure.low <= 0:
        raise ValueError(f"{figure.low} is not above 0")
    return figure


def _portion(figure: Figure) -> Figure:
    if figure.low < 0 or figure.high > 1:
        raise ValueError(f"{figure.low} to {figure.high} is not within 0 to 1")
    return figure


Amount = Annotated[Figure, AfterValidator(_not_negative)]
Positive = Annotated[Figure, AfterValidator(_positive)]
Portion = Annotated[Figure, AfterValidator(_portion)]


class Purchase(Record):
    """A server that is bought and run in a rented rack."""

    server_usd: Positive
    n_gpus: int = Field(gt=0)
    """In the server; a machine of the fleet may be a part of it."""
    tax_share: Amount
    """Of the server's price, like the next two."""
    network_share: Amount
    spares_share: Amount
    residual_usd: Amount
    """What the server is worth at the end of its life."""
    wacc: Portion
    """Cost of capital per year."""
    life_years: Positive
    power_kw: Amount
    """Of the whole server, as it draws on average."""
    pue: Positive
    """Power of the building over power of the servers."""
    usd_per_kwh: Amount
    colocation_usd_per_year: Amount
    licence_usd_per_year: Amount
    availability: Annotated[Portion, AfterValidator(_positive)]
    """Share of the hours in which the server can be used."""
    source: str
    checked_on: date

    @model_validator(mode="after")
    def _worth_less_at_the_end(self) -> Self:
        if self.residual_usd.high > self.server_usd.low:
            raise ValueError("residual_usd may not exceed server_usd, at the high and the low end")
        return self

    def usd_per_gpu_hour(self) -> Figure:
        """Annuity of the purchase, power, rack and licence over the hours that can be used."""
        return Figure(low=self._at("low"), likely=self._at("likely"), high=self._at("high"))

    def _at(self, end: End) -> Decimal:
        """Dollars at one end of every figure; what lowers the cost is taken at its other end."""
        other = OTHER[end]
        capital = self.server_usd.at(end) * (
            1 + self.tax_share.at(end) + self.network_share.at(end) + self.spares_share.at(end)
        ) - self.residual_usd.at(other)
        power = self.power_kw.at(end) * self.pue.at(end) * self.usd_per_kwh.at(end)
        per_year = (
            annuity(capital, self.wacc.at(end), self.life_years.at(other))
            + power * HOURS_PER_YEAR
            + self.colocation_usd_per_year.at(end)
            + self.licence_usd_per_year.at(end)
        )
        return per_year / (self.n_gpus * HOURS_PER_YEAR * self.availability.at(other))


def annuity(usd: Decimal, rate: Decimal, years: Decimal) -> Decimal:
    """Equal payment at the end of each year that pays `usd` off at this yearly rate."""
    if rate == 0:
        return usd / years
    return usd * rate / (1 - (1 + rate) ** -years)


class TrainingSpeed(Record):
    """What one GPU of a machine is expected to do while it trains."""

    bf16_tflops: float = Field(gt=0)
    """Dense peak, as the maker states it; 10^12 floating-point operations per second."""
    used_share: Annotated[Portion, AfterValidator(_positive)]
    """Of the peak that training uses, recomputed operations counted."""
    source: str
    checked_on: date


class Hardware(Record):
    """A machine that is paid by the hour, busy or idle."""

    name: str
    description: str
    gpu: str | None = None
    """None = it has none."""
    n_gpus: int = Field(default=0, ge=0)
    memory_gib: float | None = Field(default=None, gt=0)
    """Of all its GPUs together, as they are sold; None = it has none."""
    rental: dict[RentalContract, Positive] = {}
    """Dollars per hour of the whole machine, each with source and date."""
    purchase: Purchase | None = None
    cold_start_s: Amount
    """From asking for the machine to its first answer: weights fetched, loaded, compiled."""
    training: TrainingSpeed | None = None
    """None = not known: no training time is estimated for it."""
    idle_reserved_share: Portion = Figure.of(0)
    """Reserved hours that are paid beside the ones in use, as a share of these."""
    contract: Contract = "on_demand"
    """How the candidate that uses it pays; written in the candidate."""

    @model_validator(mode="after")
    def _is_priced(self) -> Self:
        for contract, price in self.rental.items():
            if price.source is None or price.checked_on is None:
                raise ValueError(f"rental.{contract}: say source and checked_on")
        if self.cold_start_s.high > 3600:
            raise ValueError(
                "cold_start_s: machines that need more than an hour cannot follow load"
            )
        if self.contract == "own" and (self.purchase is None or not self.n_gpus):
            raise ValueError(f"contract own: {self.name} has no `purchase`, or no `n_gpus`")
        if self.contract != "own" and self.contract not in self.rental:
            known = [*self.rental, *(["own"] if self.purchase else [])]
            raise ValueError(
                f"contract {self.contract}: {self.name} has no price for it; "
                f"priced: {', '.join(known) or 'none'}"
            )
        return self

    @property
    def list_price(self) -> Figure:
        """Dollars per hour of the whole machine under the contract in use."""
        if self.contract != "own":
            price = self.rental[self.contract]
        else:
            bought = cast(Purchase, self.purchase)
            each = bought.usd_per_gpu_hour()
            price = Figure(
                low=each.low * self.n_gpus,
                likely=each.likely * self.n_gpus,
                high=each.high * self.n_gpus,
                source=bought.source,
                checked_on=bought.checked_on,
            )
        return price

    @property
    def usd_per_hour(self) -> Decimal:
        """The likely price under the contract in use."""
        return self.list_price.likely

    @property
    def source(self) -> str | None:
        """Where the price in use comes from."""
        return self.list_price.source

    @property
    def checked_on(self) -> date | None:
        """When the price in use was looked up."""
        return self.list_price.checked_on


def use_contract(candidate: Any) -> Any:
    """Move `contract` of a candidate that is not yet validated into its hardware."""
    if not isinstance(candidate, dict):
        return candidate
    fields = cast(dict[str, Any], candidate)
    hardware = fields.get("hardware")
    if "contract" not in fields or not isinstance(hardware, dict):
        return fields
    rest = {key: value for key, value in fields.items() if key != "contract"}
    return rest | {"hardware": {**cast(dict[str, Any], hardware), "contract": fields["contract"]}}
