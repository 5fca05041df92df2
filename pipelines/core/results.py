"""What each stage hands to the next, saved as result.json: the contract between stages."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pipelines.core.prices import Hardware, TokenPrice
from pipelines.core.records import Difference, Estimate, Record
from pipelines.core.workload import RetrievalMethod

TRAIN_FILE, EVAL_FILE = "train.jsonl", "eval.jsonl"
"""Artifacts of `prepare`: the rows to learn from, and the items with their passages."""
ADAPTER = "adapter"
"""Artifact of `finetune`: a folder."""
RESPONSES, SCORES, VERDICTS = "responses.jsonl", "scores.jsonl", "verdicts.jsonl"
"""Artifacts of `evaluate`; the verdicts are those of judges."""

Verdict = Literal["own", "rent", "hybrid", "insufficient"]
Kind = Literal["rent", "own", "baseline"]


class Cost(Record):
    """What a candidate costs at the study's volume; None = not known."""

    usd_per_month: Decimal | None
    usd_per_task: Decimal | None
    n_replicas: int | None = None
    """Machines for the busiest minute; None when rented."""


class RetrieverResult(Record):
    """How well one way of retrieving finds the passages, over the questions that one answers."""

    method: RetrievalMethod
    in_use: bool
    """True for the method whose passages the candidates are shown."""
    k: int
    recall_at_k: Estimate | None
    ndcg_at_10: Estimate | None
    reciprocal_rank: Estimate | None
    latency_p50_s: float
    """Of one query, embedding included."""


class PrepareResult(Record):
    """A training split without duplicates and without the eval set."""

    run_id: str
    train_sha256: str
    eval_sha256: str
    n_read: int
    n_train: int
    n_eval: int
    n_duplicates: int
    n_conflicts: int
    """Same question with different answers; the first one is kept."""
    n_leaked: int
    """Training rows that stand (nearly) verbatim in the eval set, and were removed."""
    retrievers: tuple[RetrieverResult, ...] = ()


class FinetuneResult(Record):
    """A trained adapter."""

    run_id: str
    base_name: str
    base_sha256: str
    base_is_toy: bool
    adapter_sha256: str
    instructions: str
    """System prompt of the training rows; the tuned model must be asked with the same one."""
    n_rows: int
    n_scored_tokens: int
    """Tokens that carried loss, one epoch."""
    n_steps: int
    final_loss: float
    tokens_per_s: float
    """Tokens without padding, per second of training."""
    train_s: float
    peak_memory_gib: float


class EvaluateResult(Record):
    """What `decide` needs to know about one candidate."""

    run_id: str
    candidate: str
    title: str
    kind: Kind
    tuned: bool
    model_id: str
    """MLflow LoggedModel of the candidate."""
    simulated: bool
    toy: bool
    """True when the answers come from a model that exists only to show the workflow."""
    eval_sha256: str
    quality_metric: str
    metrics: dict[str, Estimate | None]
    """None = not one response could be scored. A judged metric that has human labels on these
    answers is corrected by them."""
    judged: dict[str, Estimate | None] = {}
    """The judged ones as the judges alone see them."""
    simulated_metrics: tuple[str, ...] = ()
    """Those whose judge is a stand-in."""
    n_total: int
    n_errors: int
    """Calls that failed or were not made: nobody's fault, they lower the coverage."""
    errors: dict[str, int]
    """Reason -> count of these, the ten most frequent."""
    outcomes: dict[str, int]
    """How the calls ended (`Outcome`) -> count."""
    n_unparseable: int
    """Answers that the quality metric could not read; they count as wrong."""
    latency_p50_s: float | None
    latency_p95_s: float | None
    ttft_p50_s: float | None
    tasks_per_s: float | None
    """Answers per second of wall time while requests were in flight."""
    cost: Cost
    spent_usd: Decimal | None
    """List price of all calls so far, failed ones included; None when owned or simulated."""
    judge_usd: Decimal | None = None
    """List price of all calls to judges so far; None when no judge is paid by the token."""
    n_broken_off: int
    """Attempts that broke off after the answer began; a provider may bill more than is known."""
    token_price: TokenPrice | None
    hardware: Hardware | None
    adapter_sha256: str | None = None
    served_models: tuple[str, ...] = ()


class EvaluateResults(Record):
    """All candidates of a study, on the same items."""

    results: dict[str, EvaluateResult]
    prepare_run_id: str
    """Of the items and their passages."""
    calibration_run_id: str | None = None
    """Of the newest measurement of the judges against this study's labels; None = there is none."""
    judge_doubt: str | None = None
    """Why the judges of the quality metric may not decide; None = they may, or none is judged."""
    judge_kinship: tuple[str, ...] = ()
    """Judges that judge their own answers, or those of their family, in words."""


class CandidateDecision(Record):
    """One row of the decision table."""

    title: str
    kind: Kind
    simulated: bool
    toy: bool
    n: int
    coverage: float
    quality: Estimate | None
    difference: Difference | None
    """Paired, candidate - incumbent; None for the incumbent itself."""
    comparison: Literal[
        "incumbent",
        "superior",
        "non-inferior",
        "non-inferior-but-worse",
        "inferior",
        "inconclusive",
    ]
    latency_p50_s: float | None
    latency_p95_s: float | None
    usd_per_task: Decimal | None
    usd_per_month: Decimal | None
    usd_per_good_task: Decimal | None
    n_replicas: int | None
    """Machines for the busiest minute; None when rented."""
    break_even_tasks_per_month: int | None
    """Volume from which this candidate is cheaper than the incumbent; None = never, or rented."""
    excluded_because: str | None
    control_of: str | None = None
    """It was asked for comparison with that candidate, and is never chosen."""
    control_difference: Difference | None = None
    """Paired, this control - that candidate: what the other prompt, or no passages, changes."""
    evaluate_run_id: str
    model_id: str


class Decision(Record):
    """The answer for one workload."""

    schema_version: Literal[1] = 1
    run_id: str
    workload: str
    title: str
    verdict: Verdict
    chosen: str | None
    incumbent: str
    margin: float
    quality_metric: str
    tasks_per_month: int
    headline: str
    reasons: tuple[str, ...]
    flips_when: tuple[str, ...]
    required_n: dict[str, int]
    """Inconclusive candidate -> about how many items would settle it."""
    simulated: tuple[str, ...]
    """Candidates whose answers are simulated; a verdict that rests on one cannot be promoted."""
    eval_sha256: str
    candidates: dict[str, CandidateDecision]
    prices: dict[str, TokenPrice]
    hardware: dict[str, Hardware]


class PromoteResult(Record):
    """The registry entry that production reads."""

    run_id: str
    registered_model: str
    version: str
    alias: str
    candidate: str
    decision_run_id: str


class PlannedStage(Record):
    """One line of a dry run."""

    stage: str
    state: Literal["done", "to do", "depends"]
    """`depends`: known only when an earlier stage has run."""
    run_id: str | None = None
    calls: int = 0
    tokens: int | None = None
    """Likely tokens of paid calls, input and output; None when nothing is paid per call."""
    usd: Decimal | None = None
    """Likely dollars of paid calls; None when nothing is paid per call."""
    usd_low: Decimal | None = None
    usd_high: Decimal | None = None
    hours: float | None = None
    note: str = ""


class Plan(Record):
    """What a command would do, at which price."""

    stages: tuple[PlannedStage, ...]
