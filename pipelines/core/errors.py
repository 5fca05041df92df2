"""Every error we raise on purpose, and the exit code a command ends with.

* FreeholdError           printed as one message, without traceback
  + UserError      2      something for the user to fix: a config, a file, a missing package
    + ConfigError         a study, a fragment or a `--set` is wrong
    + DataError           a data file is wrong; says the file and the line
    + MissingRunError     an upstream MLflow run is absent; says the command that makes it
    + ServerError         the vLLM server did not come up; says where its log is
  + BudgetReached  3      the study's budget is spent; what was answered is kept
  + Refused        4      the policy or the gate says no
* ProviderError           one call to a model failed: recorded on the Response, the run goes on
* ScoringError            one response cannot be scored: recorded on the Score, the run goes on

* Unparseable             one answer has not the form asked for: scored 0.0 with the reason

A message says what is wrong, where, and what to do next, in that order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.core.records import Outcome, Usage


class FreeholdError(Exception):
    """Base of the deliberate failures that end a command."""

    exit_code = 1


class UserError(FreeholdError):
    """Something for the user to fix."""

    exit_code = 2


class ConfigError(UserError):
    """A study, a fragment or a `--set` override is wrong."""


class DataError(UserError):
    """A data file is wrong."""


class DivergedError(UserError):
    """The loss of a training is no number any more."""


class MissingRunError(UserError):
    """No finished MLflow run holds what a stage needs."""


class ServerError(UserError):
    """The model server did not come up."""


class BudgetReached(FreeholdError):
    """The next call could exceed the budget; everything answered so far is kept."""

    exit_code = 3


class Refused(FreeholdError):
    """The policy or the promotion gate says no."""

    exit_code = 4


class ProviderError(Exception):
    """A call to a provider failed for good, after its retries.

    Args:
        message: what the server said, or what happened to the connection.
        outcome: whose doing it is; `failed` = nobody's.
    """

    def __init__(self, message: str, outcome: Outcome = "failed") -> None:
        super().__init__(message)
        self.outcome: Outcome = outcome
        self.n_attempts = 1
        self.wasted_usage: Usage | None = None
        self.n_broken_off = 0


class ScoringError(Exception):
    """A metric has no honest number for one response."""


class Unparseable(Exception):
    """The answer has not the form that was asked for: it is wrong, and counted as such.

    Args:
        message: what is wrong with the form.
        weight: what the wrong answer counts for in the metric's mean.
    """

    def __init__(self, message: str, weight: float = 1.0) -> None:
        super().__init__(message)
        self.weight = weight
