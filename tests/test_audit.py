"""The audit from logs to dollars, as a user runs it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest
import yaml
from mlflow import MlflowClient

from pipelines import audit
from pipelines.core import command
from pipelines.core.audit import AuditResult
from pipelines.core.candidate import Rent
from pipelines.core.paths import ROOT
from pipelines.economics import own_prices
from pipelines.tracking import usage

FIXTURES = ROOT / "tests" / "usage_logs" / "fixtures"
# $1 fresh, $0.10 cached, $5 out per million tokens
HAIKU = "claude-haiku-4-5"
NOON = 1_793_620_800  # 2026-11-02 12:00 UTC


def call(k: int, **changes: Any) -> dict[str, Any]:
    """1,000,000 input tokens of which 400,000 are cached, 20,000 out: 0.6 + 0.04 + 0.1 dollars."""
    usage = {
        "input_tokens": 600_000,
        "cache_read_input_tokens": 400_000,
        "cache_creation_input_tokens": 0,
        "output_tokens": 20_000,
    }
    return {
        "id": f"msg-{k}",
        "timestamp": NOON + 60 * k,
        "model": HAIKU,
        "metadata": {"workload": "claims"},
        "usage": usage,
    } | changes


class Done(NamedTuple):
    """How the command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(store_uri: str, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command, in this process: MLflow is imported once."""

    def run(*args: object) -> Done:
        argv = [*map(str, args), "--tracking-uri", store_uri]
        try:
            code = command.without_study(
                audit.__doc__, audit.add_flags, audit.audit, audit.show, argv
            )
        except SystemExit as error:
            code = int(str(error.code))
        said = capfd.readouterr()
        return Done(code, said.out, said.err)

    return run


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three calls, one of them twice, one of a model that nobody sells, one broken line."""
    rows = [call(1), call(2, metadata={"workload": "triage"}), call(2), call(3, model="house")]
    path = tmp_path / "calls.jsonl"
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join([*lines, '{"usage": ']) + "\n", encoding="utf-8")
    return path


def test_logs_become_dollars_a_page_cost_rows_and_a_run(
    log: Path, run: Callable[..., Done], tmp_path: Path
) -> None:
    page, rows = tmp_path / "audit.html", tmp_path / "focus.csv"
    done = run(log, "--invoice", "2.00", "--html", page, "--focus", rows, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Decimal(found["total"]["usd"]) == Decimal("1.48")
    assert [each["workload"] for each in found["workloads"]] == ["claims", "triage"]
    assert (found["n_rows"], found["n_repeated"]) == (5, 1)
    assert found["bad_rows"][0]["line"] == 5
    # Two of the three calls have a price.
    assert found["call_coverage"] == pytest.approx(2 / 3)
    [against] = found["comparisons"]
    assert Decimal(against["usd_difference"]) == Decimal("-0.52")
    assert "$1.48 at list prices" in page.read_text(encoding="utf-8")
    with rows.open(encoding="utf-8", newline="") as file:
        assert sum(Decimal(row["ListCost"]) for row in csv.DictReader(file)) == Decimal("1.48")

    logged = MlflowClient().get_run(found["run_id"])
    experiment = mlflow.get_experiment_by_name("audit")
    assert experiment is not None
    assert logged.info.experiment_id == experiment.experiment_id
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["usd_total"] == 1.48
    assert logged.data.metrics["n_repeated"] == 1
    assert logged.data.params["workload_01"].endswith(" a month: claims")
    artifacts = {each.path for each in MlflowClient().list_artifacts(logged.info.run_id)}
    assert {"audit.html", "audit.json", "focus.csv"} <= artifacts


def test_discount_and_uplift_stand_beside_the_list_price(
    log: Path, run: Callable[..., Done], tmp_path: Path
) -> None:
    terms, page, rows = (tmp_path / name for name in ("terms.yaml", "audit.html", "focus.csv"))
    terms.write_text(
        "terms:\n  - {provider: anthropic, discount: 0.20, regional_uplift: 1.10, account: org-7,"
        " source: contract 7, checked_on: 2026-11-01}\n",
        encoding="utf-8",
    )
    flags = ("--terms", terms, "--invoice", "1.3024", "--html", page, "--focus", rows)
    done = run(log, *flags, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Two priced calls of $0.74: $1.48 x 0.8 x 1.1.
    assert Decimal(found["total"]["usd"]) == Decimal("1.48")
    assert Decimal(found["total"]["usd_at_terms"]) == Decimal("1.3024")
    assert found["comparisons"][0]["agrees"]
    assert found["workloads"][0]["usd_per_month_at_terms"] is not None
    text = page.read_text(encoding="utf-8")
    assert "$1.48 at list prices, $1.30 at your terms" in text
    assert "20 % off, x 1.1 for the region: contract 7, 2026-11-01" in text
    with rows.open(encoding="utf-8", newline="") as file:
        cost_rows = list(csv.DictReader(file))
    sums = {
        name: sum(Decimal(row[name]) for row in cost_rows)
        for name in ("ListCost", "ContractedCost", "BilledCost", "EffectiveCost")
    }
    paid = Decimal("1.3024")
    assert sums == {
        "ListCost": Decimal("1.48"),
        "ContractedCost": paid,
        "BilledCost": paid,
        "EffectiveCost": paid,
    }
    assert {row["BillingAccountId"] for row in cost_rows} == {"org-7"}
    # Without the terms nothing of this is said.
    assert run(log, "--html", page).returncode == 0
    assert "your terms" not in page.read_text(encoding="utf-8")


def test_a_study_is_begun_and_never_overwritten(
    log: Path, run: Callable[..., Done], tmp_path: Path
) -> None:
    study = tmp_path / "claims.yaml"
    done = run(log, "--write-study", "claims", "--out", study)
    assert done.returncode == 0, done.stderr
    assert "$1.48 at list prices" in done.stdout
    text = study.read_text(encoding="utf-8")
    assert f'"{HAIKU}": "{HAIKU}"' in text
    again = run(log, "--write-study", "claims", "--out", study)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert study.read_text(encoding="utf-8") == text


def test_a_study_keeps_the_terms_of_the_contract(
    log: Path, run: Callable[..., Done], tmp_path: Path
) -> None:
    terms, study = tmp_path / "terms.yaml", tmp_path / "claims.yaml"
    terms.write_text(
        "terms:\n  - {provider: anthropic, discount: 0.20, regional_uplift: 1.10,"
        ' source: "a contract\\n# with: lines", checked_on: 2026-11-01}\n'
    )
    done = run(log, "--terms", terms, "--write-study", "claims", "--out", study)
    assert done.returncode == 0, done.stderr
    text = study.read_text(encoding="utf-8")
    assert "    # a contract # with: lines, checked on 2026-11-01" in text
    fragment = yaml.safe_load((ROOT / f"configs/candidates/{HAIKU}.yaml").read_text())
    found = yaml.safe_load(text)["candidates"]
    assert found[HAIKU] == {**fragment, "terms": {"discount": 0.2, "regional_uplift": 1.1}}
    assert Rent.model_validate(found[HAIKU]).terms.factor == Decimal("0.88")


def test_prompts_leave_the_log_only_on_request(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "EVAL_SETS", tmp_path / "eval_sets")
    rows = [
        {
            "id": f"chatcmpl-{k}",
            "timestamp": NOON + k,
            "metadata": {"workload": "claims"},
            "request": {
                "model": "gpt-6.1-sol",
                "messages": [{"role": "user", "content": f"secret claim {k}"}],
            },
            "response": {
                "id": f"chatcmpl-{k}",
                "object": "chat.completion",
                "created": NOON + k,
                "model": "gpt-6.1-sol",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "motor"}}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
            },
        }
        for k in range(3)
    ]
    log, sample = tmp_path / "log.jsonl", tmp_path / "eval_sets" / "claims" / "sampled.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first = run(log, "--write-study", "claims", "--out", tmp_path / "1.yaml", "--json")
    assert first.returncode == 0, first.stderr
    assert not sample.exists()
    assert "secret" not in first.stdout + (tmp_path / "1.yaml").read_text(encoding="utf-8")
    flags = ["--write-study", "claims", "--show-prompts"]
    second = run(log, *flags, "--out", tmp_path / "2.yaml")
    assert second.returncode == 0, second.stderr
    asked = [json.loads(line) for line in sample.read_text(encoding="utf-8").splitlines()]
    assert sorted(row["messages"][-1]["content"] for row in asked) == [
        f"secret claim {k}" for k in range(3)
    ]
    assert {row["answered"] for row in asked} == {"motor"}
    assert "target" not in asked[0]
    assert run(log, *flags, "--out", tmp_path / "3.yaml").returncode == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--invoice", "12,5"], "expected dollars"),
        (["--invoice", "openai=nan"], "expected dollars"),
        (["--invoice", "1", "--invoice", "2"], "given twice"),
        (["--invoice", "openai=5"], "the logs hold no call to it; they hold calls to anthropic"),
        (["--write-study", "nope", "--out", "x.yaml"], "there are claims, triage"),
        (["--out", "x.yaml"], "add --write-study"),
        (["--html", "/nowhere/audit.html"], "no such folder"),
    ],
)
def test_what_the_user_gets_wrong_is_one_message_and_exit_2(
    log: Path, run: Callable[..., Done], flags: list[str], message: str
) -> None:
    done = run(log, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []


def test_a_log_that_is_not_there_and_an_experiment_that_is_not_there(
    run: Callable[..., Done], tmp_path: Path
) -> None:
    done = run(tmp_path / "no.jsonl")
    assert done.returncode == 2
    assert "no such file" in done.stderr
    done = run("mlflow:nope")
    assert done.returncode == 2
    assert "no such experiment; it has: Default" in done.stderr
    assert run(tmp_path, "--as-of", "yesterday").returncode == 2


def test_logs_of_every_format_are_one_audit_whose_parts_sum_to_its_total(
    run: Callable[..., Done], tmp_path: Path
) -> None:
    rows = tmp_path / "focus.csv"
    done = run(FIXTURES, "--focus", rows, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    again = AuditResult.model_validate_json(done.stdout)
    assert json.loads(again.model_dump_json()) == found
    assert len({each["format"] for each in found["files"]}) >= 10
    total = Decimal(found["total"]["usd"])
    assert total > 0
    for part in ("workloads", "models"):
        known = [Decimal(each["spend"]["usd"] or 0) for each in found[part]]
        assert sum(known) == pytest.approx(total, abs=Decimal("1e-12"))
    assert sum(Decimal(day["usd"] or 0) for day in found["days"]) == pytest.approx(
        total, abs=Decimal("1e-12")
    )
    with rows.open(encoding="utf-8", newline="") as file:
        usd = sum(
            Decimal(row["ListCost"])
            for row in csv.DictReader(file)
            if row["ChargeCategory"] == "Usage"
        )
    assert usd == pytest.approx(total, abs=Decimal("1e-12"))
    assert {each["against"] for each in found["comparisons"]} == {"cost report", "log"}
    assert sum(each["n_bad"] for each in found["files"]) == sum(found["n_bad"].values())


def test_a_day_has_the_prices_of_that_day(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = """tokens:
  acme/house:
    - {usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 1,
       valid_until: 2026-11-02, source: contract, checked_on: 2026-11-01}
    - {usd_per_million_input_tokens: 3, usd_per_million_output_tokens: 3,
       valid_from: 2026-11-03, source: contract, checked_on: 2026-11-01}
"""
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "own.yaml").write_text(prices, encoding="utf-8")
    monkeypatch.setattr(own_prices, "FOLDER", tmp_path / "prices")
    tokens = {"prompt_tokens": 900_000, "completion_tokens": 100_000}
    rows = [call(k, model="acme/house", usage=tokens) for k in (1, 24 * 60)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def usd(*flags: str) -> Decimal:
        done = run(log, "--json", *flags)
        assert done.returncode == 0, done.stderr
        return Decimal(json.loads(done.stdout)["total"]["usd"])

    # A million tokens on the 2nd at $1, a million on the 3rd at $3
    assert usd() == 4
    assert usd("--as-of", "2026-11-02") == 2


def test_traces_of_a_tracking_server_are_a_log(run: Callable[..., Done]) -> None:
    traced("shop", 3)
    done = run("mlflow:shop", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Three calls of 1,000,000 in and 20,000 out: 3 x (1 + 0.1) dollars
    assert Decimal(found["total"]["usd"]) == Decimal("3.3")
    assert [each["file"] for each in found["files"]] == ["mlflow:shop"]
    # MLflow puts dollars of its own into traces of models that it knows.
    [theirs] = found["comparisons"]
    assert (theirs["against"], theirs["subject"]) == ("log", f"anthropic/{HAIKU}")
    assert Decimal(theirs["usd_stated"]) == Decimal("3.3")
    assert theirs["agrees"]


def test_traces_are_fetched_page_by_page(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "PAGE", 2)
    traced("shop", 5)
    path = usage.export("shop", tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["info"]["trace_id"] for line in lines}) == 5


def traced(experiment: str, n: int) -> None:
    """Calls as MLflow's tracing records them."""
    experiment_id = mlflow.create_experiment(experiment)
    for _ in range(n):
        span = mlflow.start_span_no_context(
            "chat",
            span_type="CHAT_MODEL",
            inputs={"messages": [{"role": "user", "content": "hello"}]},
            experiment_id=experiment_id,
        )
        tokens = {"input_tokens": 1_000_000, "output_tokens": 20_000, "total_tokens": 1_020_000}
        span.set_attributes(
            {
                "mlflow.chat.tokenUsage": tokens,
                "mlflow.llm.model": HAIKU,
                "mlflow.llm.provider": "anthropic",
            }
        )
        span.end()
    mlflow.flush_trace_async_logging()
