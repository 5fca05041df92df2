"""What each stage hands to the next, saved as result.json: the contract between stages."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pipelines.core.hardware import Figure, Hardware
from pipelines.core.own_costs import Spent
from pipelines.core.prices import TokenPrice
from pipelines.core.records import Estimate, Message, Record
from pipelines.core.workload import RetrievalMethod, Tier

TRAIN_FILE, EVAL_FILE = "train.jsonl", "eval.jsonl"
"""Artifacts of `prepare`: the rows to learn from, and the items with their passages."""
VALIDATION_FILE = "validation.jsonl"
"""Artifact of `prepare`, where the study keeps rows back: those that are not learned from."""
CARD_FILE, CARD_DATA = "card.md", "card.json"
"""Artifacts of `prepare`: what the data are, where they come from, what was left out."""
ADAPTER = "adapter"
"""Artifact of `finetune`: a folder."""
RESPONSES, SCORES, VERDICTS = "responses.jsonl", "scores.jsonl", "verdicts.jsonl"
"""Artifacts of `evaluate`; the verdicts are those of judges."""

Verdict = Literal["own", "rent", "hybrid", "insufficient"]
Kind = Literal["rent", "own", "baseline"]
Comparison = Literal[
    "incumbent", "superior", "non-inferior", "non-inferior-but-worse", "inferior", "inconclusive"
]


class CostLine(Record):
    """One line of the bill of owning."""

    name: str
    usd_per_month: Figure | None
    """None = the study says nothing of it, and it is not in the total."""
    basis: str = ""
    """How it comes about, or why there is no figure."""


class Cost(Record):
    """What a candidate costs at the study's volume; None = not known."""

    usd_per_month: Decimal | None
    usd_per_task: Decimal | None
    unknown_because: str = ""
    """Why there are no dollars."""
    usd_per_month_low: Decimal | None = None
    """When every input lies where it makes owning cheap; None when rented."""
    usd_per_month_high: Decimal | None = None
    lines: tuple[CostLine, ...] = ()
    """What the dollars are made of; empty when rented."""
    n_replicas: int | None = None
    """Machines for the busiest minute, spares included; None when rented."""
    utilisation: float | None = None
    """Calls over what all machines that are on could answer; None when rented."""
    capacity_per_s: Figure | None = None
    """Calls per second of one machine that the machines are counted by; None when rented."""


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
    n_near_duplicates: int = 0
    """Near-copies of another training row with the same answer that were removed."""
    noise: dict[str, int] = {}
    """Why an answer was taken for wrong, and what was done (`label: drop`) -> rows."""
    personal_data: dict[str, int] | None = None
    """Kind -> different values of a row, summed over the rows to train on and those kept back; the
    values are nowhere. None = nobody looked."""
    n_personal_data: int = 0
    """Rows with any."""
    personal_data_masked: bool = False
    names_sought: bool = False
    """Whether names and places were looked for, too."""
    n_validation: int = 0
    validation_sha256: str | None = None
    """None = no rows are kept back."""
    n_validation_copies: int = 0
    """Training rows that are (nearly) one that is kept back, and were removed."""
    left_out: dict[str, int] = {}
    """Of logged calls: why one is no row -> count."""
    licences: dict[str, int] = {}
    """Licence or terms -> rows read that stand under it; a row may stand under two."""
    n_without_licence: int = 0
    """Rows read of which nobody says what they may be used for."""
    retrievers: tuple[RetrieverResult, ...] = ()


class TrainingRows(Record):
    """The training rows as tokens, as they were before the model was loaded."""

    n_rows: int
    n_sequences: int
    """More than rows where a conversation is learned turn by turn."""
    n_tokens: int
    n_scored_tokens: int
    longest: int
    """Tokens of the longest sequence."""
    p99_5: int
    """Tokens that 99.5 % of the sequences do not exceed."""
    template_sha256: str
    """Of the chat template that the server renders."""
    tokenizer_sha256: str

    @property
    def scored_share(self) -> float:
        """Share of the tokens that carry loss."""
        return self.n_scored_tokens / self.n_tokens

    def figures(self) -> dict[str, float]:
        """The numbers, for MLflow."""
        numbers = self.model_dump(exclude={"template_sha256", "tokenizer_sha256"})
        return {**numbers, "scored_share": self.scored_share}


Checkpointing = Literal["none", "selective", "full", "offload"]


class TrainingEstimate(Record):
    """What a training is expected to take. All of it is an estimate; None = see `reasons`."""

    hardware: str | None
    """File in configs/hardware/; None = this machine."""
    parameters: int | None = None
    adapter_parameters: int | None = None
    rank: int
    n_tokens: int
    """All epochs."""
    memory_gib: dict[str, float] = {}
    """Of one GPU, by part: weights, adapter with optimiser, activations, logits."""
    available_gib: float | None = None
    """Of one GPU, less what CUDA and the allocator keep."""
    checkpointing: Checkpointing | None = None
    """The one that the memory is counted with; None = not known, or none fits."""
    fits: bool | None = None
    train_s: Figure | None = None
    usd: Figure | None = None
    """With the source and the date of the machine's price."""
    reasons: tuple[str, ...] = ()
    """Why something is not known or does not fit, and what to do."""

    @property
    def total_gib(self) -> float | None:
        """All parts of the memory."""
        return sum(self.memory_gib.values()) if self.memory_gib else None

    def figures(self) -> dict[str, float | None]:
        """The numbers, for MLflow."""
        return {
            "train_s": None if self.train_s is None else float(self.train_s.likely),
            "peak_memory_gib": self.total_gib,
            "usd": None if self.usd is None else float(self.usd.likely),
        }


class TrialResult(Record):
    """One training of a search."""

    run_id: str
    """The nested MLflow run, with the adapter."""
    learning_rate: float
    rank: int
    epochs: float
    seed: int
    validation_loss: float | None
    """Mean per scored token, in nats; None = see `reason`."""
    reason: str = ""
    n_steps: int | None = None
    """Fewer than planned where it stopped early; None = it diverged."""
    train_s: float = 0.0


class TriedSetting(Record):
    """One combination of settings, trained once or with several seeds."""

    trials: tuple[TrialResult, ...]
    """The adapter of the first one is taken, whichever seed was the luckiest."""
    mean: float | None
    """Of the validation losses; None = a training diverged."""
    low: float | None
    """The lowest of them, not an interval."""
    high: float | None


class SearchResult(Record):
    """What was tried, and what was best on training rows that were held out."""

    settings: tuple[TriedSetting, ...]
    best: int
    """Place of the chosen one."""
    n_rows: int
    """Learned from, in each training."""
    n_validation: int
    """Held out."""

    @property
    def chosen(self) -> TrialResult:
        """The training whose adapter is taken."""
        return self.settings[self.best].trials[0]

    @property
    def train_s(self) -> float:
        """Of all trainings."""
        return sum(trial.train_s for each in self.settings for trial in each.trials)


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
    machine: str = ""
    """That it was trained on; empty = not noted."""
    peak_memory_gib: float
    lora_rank: int | None = None
    """None = as the study says."""
    rows: TrainingRows | None = None
    estimate: TrainingEstimate | None = None
    """Made before the training, to stand beside what it took."""
    n_validation: int = 0
    """Rows that were held out of the training."""
    base_validation_loss: float | None = None
    """Mean loss per scored token of the held-out rows before training, in nats; None = none."""
    validation_loss: float | None = None
    """The same of this adapter, the lowest that was measured."""
    best_step: int | None = None
    """Step after which the adapter was as it is kept; None = the last."""
    launcher: str = "local"
    n_processes: int = 1
    search: SearchResult | None = None
    """What was tried; `train_s` is then that of all trials. None = trained once."""


class ReferenceAnswer(Record):
    """What a model says first to one training prompt in-process, each token the likeliest."""

    messages: tuple[Message, ...]
    """Instructions included."""
    prompt_ids: tuple[int, ...]
    """As the chat template renders the messages in training."""
    token_ids: tuple[int, ...] = ()
    """With the adapter, up to the end of the turn; none where only the prompt is compared."""
    text: str = ""
    likeliest: tuple[dict[int, float], ...] = ()
    """For each of these tokens the likeliest ones at its place, itself included, and their
    log-probabilities."""
    base_logprobs: tuple[float, ...] = ()
    """Of the same tokens after the same tokens, without the adapter."""


class ParityResult(Record):
    """Whether the served model says what base and adapter say in-process.

    An answer is compared up to the first token that is another one: what follows has another past.
    """

    run_id: str
    model: str
    """Name under which it is served."""
    adapter_sha256: str | None
    serving: dict[str, str]
    vllm: str
    """Version."""
    strict: bool
    """False = quantised in serving: the figures are reported, and only the prompts and the presence
    of the adapter can stop a study."""
    n_prompts: int
    n_tokens: int
    """Of the answers in-process; 0 where there is no adapter and only the prompts are compared."""
    agreement: float | None
    """Share of these tokens that the served model says, too."""
    n_ties: int
    """Answers that part where two tokens are as good as equally likely."""
    shift_nats: float | None
    """Mean difference of the log-probabilities between served and in-process, without sign."""
    effect_nats: float | None
    """The same between adapter and no adapter, both in-process."""
    adapter_seen: bool | None
    """None = there is none, or its effect is too small to be told from the shift."""
    failure: str | None
    """What is wrong; None = passed."""


LooksStop = Literal["non-inferior", "futile", "all asked", "budget"]
"""Why no further items were asked of a candidate.

non-inferior: shown to be within the margin at the look's level · futile: too unlikely to be shown
any more · all asked: the last look is at all items · budget: it is not done, no look was due.
"""


class LooksResult(Record):
    """How far a candidate was asked when it could be stopped early, and why no further."""

    looks_planned: int
    """The one at the end included."""
    looks_done: int
    items_planned: int
    """All of the eval set, each sample of an item counted."""
    items_asked: int
    """Those up to the stop, a prefix of one random order; all other figures are about them. Not
    asked because of a stop is not missing."""
    stopped: LooksStop
    margin: float
    """The loss of quality that the looks took for good enough: the policy's."""
    alpha: float
    """One-sided, of all looks together."""
    level: float | None
    """One-sided alpha of the last look alone: whatever is tested on these items is tested at it.
    None = the budget was reached before a look."""
    mean: float | None
    """Candidate - incumbent on the prefix of the last look, in [-1, 1]."""
    low: float | None
    """Repeated confidence interval: each end holds with 1 - `alpha`, whenever one stops. None =
    nothing could be tested: see `reason`."""
    high: float | None
    reason: str = ""

    @property
    def share_saved(self) -> float:
        """Share of the planned calls that are not needed; 0 where the budget cut them."""
        return 0.0 if self.stopped == "budget" else 1 - self.items_asked / self.items_planned


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
    """Items that were to be asked, samples counted: all, or those up to the stop of the `looks`.
    So `n_total` of the metrics, which the coverage is a share of."""
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
    spent: Spent | None = None
    """What making this model was measured to take; None = it was not tuned."""
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
    looks: LooksResult | None = None
    """None = asked whole, without looks."""


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


class Swing(Record):
    """What one input alone does to the saving of owning, all others at their likely value."""

    symbol: str
    """Its name in `own_costs`, or what it is."""
    low: Decimal
    """The input at its low end."""
    high: Decimal
    saving_at_low: Decimal
    """Dollars a month that owning saves; negative = it costs more."""
    saving_at_high: Decimal

    @property
    def flips(self) -> bool:
        """Whether the answer hangs on this input alone."""
        return (self.saving_at_low > 0) != (self.saving_at_high > 0)


class SpillOver(Record):
    """Own machines for the base of the load, an API for what they cannot take."""

    n_replicas: int
    """Own machines, no spares: the API stands in; 0 = the API alone is cheapest."""
    spilled_share: float
    """Of the calls."""
    usd_per_month: Decimal
    own_usd_per_month: Decimal
    """Of owning alone, at the same volume."""
    api_usd_per_month: Decimal
    """Of the API alone."""

    @property
    def is_cheapest(self) -> bool:
        """Whether both together cost less than either alone."""
        return self.usd_per_month < min(self.own_usd_per_month, self.api_usd_per_month)


class ApprovalRequest(Record):
    """What people approve: one version of a model, its weights, and the decision for it."""

    model: str
    version: str
    candidate: str
    kind: Kind | None
    tier: Tier
    roles: tuple[str, ...]
    """Each needs the signature of another person."""
    decision_run_id: str
    decision_sha256: str
    verdict: str
    headline: str
    evaluate_run_id: str
    finetune_run_id: str | None
    """None = nothing was trained for it; so the next two."""
    adapter_sha256: str | None
    """Of all its files: the digest that the builder's signature is for."""
    base_sha256: str | None
    """Of the open model under the adapter."""
    serving: dict[str, str] = {}
    """How vLLM held it when it was measured; empty = it is not served by vLLM."""
    builder: str
    """Who asks."""
    builder_key_id: str


PromoteState = Literal["promoted", "waiting", "approved", "rejected"]


class PromoteResult(Record):
    """The registry entry that production reads, or how far it is from there."""

    run_id: str
    registered_model: str
    version: str
    alias: str | None
    """None = it was not moved."""
    candidate: str
    decision_run_id: str
    state: PromoteState = "promoted"
    """waiting: for approvals; the alias was not moved · approved, rejected: one person's
    signature was put on file."""
    approval_run_id: str | None = None
    """Run with the request and all signatures; None = the tier demands none. So the next."""
    request: ApprovalRequest | None = None
    approved_by: dict[str, str] = {}
    """Role -> who signed for it."""
    missing: tuple[str, ...] = ()
    """Roles that nobody has signed for."""
    not_counted: tuple[str, ...] = ()
    """Signatures on file that do not count, and why."""
    anchor: str | None = None
    """Artifact that signs the audit trail up to this promotion; None = there was no key."""


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
    """Likely dollars of paid calls, or of the machine that trains; None when neither is priced."""
    usd_low: Decimal | None = None
    usd_high: Decimal | None = None
    hours: float | None = None
    estimate: TrainingEstimate | None = None
    """Of a training."""
    note: str = ""


class Plan(Record):
    """What a command would do, at which price."""

    stages: tuple[PlannedStage, ...]


class Quantiles(Record):
    """Of one kind of duration, in seconds. None = too few requests for it, or too many failed."""

    n: int
    """Durations that were measured."""
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class LoadStep(Record):
    """What happened at one offered rate.

    The user's clock starts when a request was due, the server's when it was sent.
    """

    offered_per_s: float
    realised_per_s: float | None
    """Of the arrivals that were drawn; None when all were due at once."""
    seed: int
    n: int
    n_answered: int
    holds: bool
    """True when the limits were kept, the queue did not grow and the sender kept its times."""
    broke: tuple[str, ...]
    """What did not hold: limits, `errors`, `queue`, `sender`."""
    ttft: Quantiles
    """User's clock."""
    latency: Quantiles
    """User's clock."""
    server_ttft: Quantiles
    server_latency: Quantiles
    tpot: Quantiles
    """(latency - TTFT) / (output tokens - 1); an answer of one token has none."""
    itl: Quantiles
    """Gaps between pieces of one answer, all of them pooled; a piece may hold several tokens."""
    goodput_per_s: float | None
    """Arrivals per second that were answered within all limits; None when all were due at once."""
    achieved_per_s: float
    """Answers per second from the first arrival to the last answer."""
    completed_share: float | None
    """Rate of completion over rate of arrival: 1 / (1 + slope of latency against time)."""
    trend_p: float | None
    """One-sided p-value of a rising latency (Kendall's tau over batches)."""
    send_error_p99_s: float
    """How late requests left, 99th percentile of this sample."""
    client_cpu_share: float
    """Processor time of the sender over wall time; 1 = one core."""
    wall_s: float


class BenchmarkResult(Record):
    """How much load one candidate carries on one machine."""

    run_id: str
    candidate: str
    title: str
    kind: Kind
    simulated: bool
    toy: bool
    limits: dict[str, float]
    """Seconds that 95 of 100 requests must keep."""
    capacity_per_s: float | None
    """Highest offered rate that holds, median over the searches; None = not even a low one does."""
    capacity_low: float | None
    """Lowest over the searches; 0 when one of them found none."""
    capacity_high: float | None
    """Lowest rate that did not hold, highest over the searches; None when none was reached."""
    limited_by: str
    """What broke above the capacity: a limit, `errors`, `queue`, `sender`, `max_rate`, `budget`."""
    at_capacity: LoadStep | None
    """A step at `capacity_per_s` that held."""
    steps: tuple[LoadStep, ...]
    """All that were tried, in order."""
    n_requests: int
    n_items: int
    """Different items of the eval set among them."""
    send_error_p99_s: float | None
    """Over the steps that held; None when none did."""
    spent_usd: Decimal | None
    """List price of the requests; None when nothing is paid per token."""
    hardware: str | None
    """The study's name for the machine; None when rented."""
    machine: str
    """What the measurement ran on."""
    serving: dict[str, str]


class BenchmarkResults(Record):
    """The candidates that were measured."""

    results: dict[str, BenchmarkResult]
