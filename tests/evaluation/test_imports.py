"""Logs of other harnesses become recorded answers; what they do not state stays unknown."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from pipelines.core.command import Options
from pipelines.core.config import load_study
from pipelines.core.errors import DataError, ScoringError
from pipelines.core.records import Example, Message, Response, Usage
from pipelines.core.results import EvaluateResults
from pipelines.core.study import Grading
from pipelines.core.workload import MetricSpec
from pipelines.evaluate import evaluate
from pipelines.evaluation import imports, recorded
from pipelines.evaluation.grading import grade
from pipelines.evaluation.imports import RecordedAnswer, inspect_log
from tests.conftest import write_jsonl

FIXTURES = Path(__file__).parent / "fixtures"
INSPECT = FIXTURES / "inspect.json"
LM_EVAL = FIXTURES / "samples_triage_2026-11-02T09-00-00.000000.jsonl"
PROMPTFOO = FIXTURES / "promptfoo.json"
TRACES = FIXTURES / "traces.jsonl"
PLAIN = Usage(input_tokens=61, output_tokens=3)


def load(path: Path | str) -> dict[str, RecordedAnswer]:
    return recorded.load(str(path)).answers


def packed(
    path: Path,
    log: dict[str, Any],
    header: str = "header.json",
    method: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """The log as Inspect packs it: the header, and each sample by itself."""
    samples = {f"samples/{s['id']}_epoch_{s['epoch']}.json": s for s in log["samples"]}
    rest = {key: value for key, value in log.items() if key != "samples"}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in {**samples, "summaries.json": [], header: rest}.items():
            archive.writestr(name, json.dumps(content))
    return path


def zstandard(path: Path, members: dict[str, bytes]) -> Path:
    """A zip file whose members are packed with zstd, which Python's zipfile cannot write itself.

    Each is written as it is packed, then method, check sum and size are put right in both of its
    headers: at 8, 14, 22 bytes and at 10, 16, 24.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, pyarrow.compress(content, codec="zstd", asbytes=True))
        places = [(info.header_offset, archive.start_dir) for info in archive.infolist()]
    raw = bytearray(path.read_bytes())
    listed = places[0][1]
    for (local, _), content in zip(places, members.values(), strict=True):
        listed = raw.index(b"PK\x01\x02", listed)
        for at, method, check, size in ((local, 8, 14, 22), (listed, 10, 16, 24)):
            raw[at + method : at + method + 2] = struct.pack("<H", inspect_log.ZSTANDARD)
            raw[at + check : at + check + 4] = struct.pack("<I", zlib.crc32(content))
            raw[at + size : at + size + 4] = struct.pack("<I", len(content))
        listed += 4
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("path", "name", "title"),
    [
        (INSPECT, "inspect_log", "Inspect AI log"),
        (LM_EVAL, "lm_eval", "samples of the LM Evaluation Harness"),
        (PROMPTFOO, "promptfoo", "promptfoo results"),
        (TRACES, "mlflow_traces", "MLflow traces"),
    ],
)
def test_exactly_one_format_knows_a_file(path: Path, name: str, title: str) -> None:
    head = path.read_bytes()[: imports.HEAD_BYTES]
    assert [n for n in imports.names() if imports.load(n).detects(head, path)] == [name]
    found = imports.detect(path)
    assert title == found.TITLE


@pytest.mark.parametrize(
    "head", [b'{"id": "x", "text": "y"}\n', b'\xef\xbb\xbf{ "error":"z"}', b""]
)
def test_our_own_format_is_known_by_its_first_key(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(head)
    assert [n for n in imports.names() if imports.load(n).detects(head, path)] == ["freehold"]


@pytest.mark.parametrize("content", ["id,text\n1,a\n", "[]", '{"answers": []}', "\x00\x01"])
def test_an_unknown_format_names_the_known_ones(tmp_path: Path, content: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"no known format; known are .*Inspect.*promptfoo"):
        load(path)


def test_inspect() -> None:
    answers = load(INSPECT)
    assert list(answers) == [
        "refund-0", "refund-1", "refund-2", "delivery-0", "delivery-1", "login-0", "login-1",
    ]  # fmt: skip
    # 36 tokens at the full rate and 25 from the cache.
    assert answers["refund-0"] == RecordedAnswer(
        id="refund-0", text="refund", outcome="answered",
        usage=Usage(input_tokens=61, cached_input_tokens=25, output_tokens=3),
        model="gpt-4o-2024-08-06", finish_reason="stop", latency_s=0.5, scores={"match": 1.0},
    )  # fmt: skip
    assert answers["refund-1"].scores == {"match": 0.0, "nearness": 0.375}
    assert answers["refund-2"].outcome == "truncated"
    assert answers["refund-2"].scores == {"match": 0.5}
    assert answers["delivery-0"].outcome == "filtered"
    assert answers["delivery-0"].scores == {}
    long = answers["delivery-1"]
    assert (long.text, long.outcome) == (None, "context_length")
    assert long.error == "This model's maximum context length is 128000 tokens."
    turns = answers["login-0"]
    assert turns.usage == Usage(input_tokens=150, output_tokens=9, reasoning_tokens=4)
    assert turns.latency_s is None
    failed = answers["login-1"]
    assert (failed.text, failed.error) == (None, "RateLimitError('slow down')")
    assert (failed.usage, failed.latency_s, failed.scores) == (None, None, {})
    # `length: 8`, and the N of an answer that was none.
    assert recorded.load(str(INSPECT)).n_scores_left_out == 2


@pytest.mark.parametrize("header", ["header.json", "_journal/start.json"])
def test_a_packed_inspect_log_holds_the_same_answers(tmp_path: Path, header: str) -> None:
    path = packed(tmp_path / "log.eval", json.loads(INSPECT.read_text()), header)
    assert recorded.load(str(path)) == recorded.load(str(INSPECT))


def test_an_inspect_log_packed_with_zstandard(tmp_path: Path) -> None:
    log = json.loads(INSPECT.read_text())
    members = {"header.json": json.dumps({"eval": log["eval"]}).encode()}
    members |= {f"samples/{s['id']}_epoch_1.json": json.dumps(s).encode() for s in log["samples"]}
    path = zstandard(tmp_path / "log.eval", members)
    assert recorded.load(str(path)) == recorded.load(str(INSPECT))


def test_epochs_are_named_as_repeated_samples_are(tmp_path: Path) -> None:
    log = json.loads(INSPECT.read_text())
    log["eval"]["config"]["epochs"] = 2
    log["samples"] = [log["samples"][0], {**log["samples"][1], "id": "refund-0", "epoch": 2}]
    path = packed(tmp_path / "log.eval", log)
    assert {i: a.text for i, a in load(path).items()} == {
        "refund-0#0": "refund", "refund-0#1": "delivery",
    }  # fmt: skip


def test_lm_eval() -> None:
    strict = recorded.load(f"{LM_EVAL}#strict-match")
    assert strict.answers["0"] == RecordedAnswer(id="0", text="refund", scores={"exact_match": 1.0})
    texts = ["refund", "[invalid]", "refund", "delivery", "[invalid]", "login"]
    assert [answer.text for answer in strict.answers.values()] == texts
    assert strict.answers["1"].scores == {"exact_match": 0.0}
    assert strict.other_ids["delivery-1"] == "4"
    assert strict.n_scores_left_out == 6  # `bleu` is a pair of texts
    assert load(f"{LM_EVAL}#flexible-extract")["4"].text == "delivery"


@pytest.mark.parametrize(
    "responses",
    [[["-1.5", "True"]], [["-1.5", "True"], ["-2.5", "False"]], [["a", "b"]], ["a", "b"]],
)
def test_log_likelihoods_and_repeats_are_refused(tmp_path: Path, responses: Any) -> None:
    path = write_jsonl(tmp_path / "samples.jsonl", [{"doc_id": 0, "filtered_resps": responses}])
    with pytest.raises(DataError, match="line 1: filtered_resps: expected one generated text"):
        load(path)


def test_promptfoo() -> None:
    answers = load(f"{PROMPTFOO}#openai:gpt-4o")
    assert answers["refund-0"] == RecordedAnswer(
        id="refund-0", text="refund", outcome="answered",
        usage=Usage(
            input_tokens=60, cached_input_tokens=40, output_tokens=3, reasoning_tokens=2
        ),
        model="openai:gpt-4o", finish_reason="stop", latency_s=0.4,
        scores={"tone": 0.5, "success": 1.0, "score": 1.0},
    )  # fmt: skip
    assert answers["refund-1"].scores == {"success": 0.0, "score": 0.0}
    assert answers["refund-2"].text == '{"intent": "refund"}'
    assert answers["delivery-0"].outcome == "refused"
    failed = answers["delivery-1"]
    assert (failed.text, failed.error) == (None, "API error: 500 Internal Server Error")
    assert failed.scores == {}
    cached = answers["login-0"]
    assert (cached.text, cached.usage, cached.latency_s) == ("login", None, None)
    assert recorded.load(f"{PROMPTFOO}#openai:gpt-4o").n_scores_left_out == 1
    haiku = load(f"{PROMPTFOO}#haiku")
    assert haiku["refund-1"].text == "refund"
    assert haiku["refund-1"].model == "anthropic:messages:claude-haiku-4-5"


def test_promptfoo_items_without_an_id_have_their_number_and_description(tmp_path: Path) -> None:
    file = json.loads(PROMPTFOO.read_text())
    file["results"]["results"] = file["results"]["results"][:2]
    for result in file["results"]["results"]:
        result["vars"].pop("id")
        result["description"] = f"test {result['testIdx']}"
    path = tmp_path / "results.json"
    path.write_text(json.dumps(file))
    recording = recorded.load(str(path))
    assert list(recording.answers) == ["0", "1"]
    assert recording.other_ids == {"test 0": "0", "test 1": "1"}


def test_mlflow() -> None:
    answers = load(TRACES)
    last = "tr-00000000000000000000000000000007"
    assert list(answers) == [
        "refund-0", "refund-1", "refund-2", "delivery-0", "delivery-1", "login-0", last,
    ]  # fmt: skip
    assert answers["refund-0"] == RecordedAnswer(
        id="refund-0", text="refund", outcome="answered",
        usage=Usage(input_tokens=61, cached_input_tokens=25, output_tokens=3),
        model="gpt-4o-2024-08-06", latency_s=0.5, scores={"correct": 1.0},
    )  # fmt: skip
    assert answers["refund-1"].usage is None
    assert answers["refund-1"].scores == {"correct": 0.0}  # the last one was withdrawn
    chat = answers["refund-2"]
    assert (chat.text, chat.outcome, chat.finish_reason) == (
        "refund or deliv", "truncated", "length",
    )  # fmt: skip
    assert answers["delivery-0"].text == '{"intent": "delivery"}'
    assert answers["delivery-1"].error == "APIError: overloaded"
    assert answers["login-0"].text == "login"
    assert answers[last].error == "the trace holds no answer, or only the beginning of one"
    assert recorded.load(str(TRACES)).n_scores_left_out == 1  # `rating: 4`


LOGPROBS = {"content": [{"token": "re", "logprob": -0.5}, {"token": "fund", "logprob": -0.25}]}
MEAN = -0.375


def test_inspect_says_how_likely_tokens_were(tmp_path: Path) -> None:
    log = json.loads(INSPECT.read_text())
    for sample in log["samples"]:
        for choice in sample["output"].get("choices", []):
            choice["logprobs"] = LOGPROBS
    log["samples"][1]["output"]["choices"][0]["logprobs"] = None
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    found = {id: answer.mean_logprob for id, answer in load(path).items()}
    assert found == {
        "refund-0": MEAN, "refund-1": None, "refund-2": MEAN, "delivery-0": MEAN,
        "delivery-1": None, "login-0": MEAN, "login-1": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "mean"),
    [([-0.5, -0.25], MEAN), (None, None), ([], None), ("x", None), ([-0.5, None], None)],
)
def test_promptfoo_says_how_likely_tokens_were(
    tmp_path: Path, said: Any, mean: float | None
) -> None:
    file = json.loads(PROMPTFOO.read_text())
    for result in file["results"]["results"]:
        if result.get("response"):
            result["response"]["logProbs"] = said
    path = tmp_path / "results.json"
    path.write_text(json.dumps(file))
    answers = load(f"{path}#openai:gpt-4o")
    assert answers["refund-0"].mean_logprob == mean
    assert answers["delivery-1"].mean_logprob is None  # it failed


@pytest.mark.parametrize(("said", "mean"), [(LOGPROBS, MEAN), (None, None), ([-0.5], None)])
def test_a_trace_of_a_chat_completion_says_how_likely_tokens_were(
    tmp_path: Path, said: Any, mean: float | None
) -> None:
    traces = [json.loads(line) for line in TRACES.read_text().splitlines()]
    attributes = traces[2]["data"]["spans"][0]["attributes"]
    outputs = json.loads(attributes["mlflow.spanOutputs"])
    outputs["choices"][0]["logprobs"] = said
    attributes["mlflow.spanOutputs"] = json.dumps(outputs)
    answers = load(write_jsonl(tmp_path / "traces.jsonl", traces))
    assert answers["refund-2"].mean_logprob == mean
    assert answers["refund-0"].mean_logprob is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (PROMPTFOO, r"'refund-0', from 'openai:gpt-4o', 'haiku'; .*promptfoo.json#openai:gpt-4o'"),
        (LM_EVAL, r"'0', from 'strict-match', 'flexible-extract'; .*#strict-match'"),
        (f"{PROMPTFOO}#gpt-4o", r"no answers of 'gpt-4o'; it has those of 'openai:gpt-4o', 'haiku"),
    ],
)
def test_several_answers_to_an_item_ask_for_a_choice(path: Path | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(path)


def test_two_prompts_of_one_provider_are_told_apart_by_their_columns(tmp_path: Path) -> None:
    text = PROMPTFOO.read_text().replace('"label": "haiku"', '"label": "openai:gpt-4o"')
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DataError, match="'openai:gpt-4o, column 1', 'openai:gpt-4o, column 2'"):
        load(path)
    assert load(f"{path}#openai:gpt-4o, column 2")["refund-1"].text == "refund"


def test_the_chosen_model_is_part_of_the_digest(tmp_path: Path) -> None:
    whole, one = recorded.file_sha256(str(PROMPTFOO)), recorded.file_sha256(f"{PROMPTFOO}#haiku")
    assert len({whole, one, recorded.file_sha256(f"{PROMPTFOO}#openai:gpt-4o")}) == 3
    odd = tmp_path / "run#2.jsonl"
    odd.write_text('{"id": "a", "text": "b"}\n')
    assert list(load(odd)) == ["a"]


def broken_sample(log: dict[str, Any]) -> None:
    log["samples"][1]["output"]["usage"]["input_tokens"] = -5


def endless_latency(log: dict[str, Any]) -> None:
    log["samples"][1]["output"]["time"] = float("nan")


@pytest.mark.parametrize(
    ("damage", "where"),
    [(broken_sample, "output.usage.input_tokens"), (endless_latency, "output.time")],
)
def test_a_broken_sample_is_named(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], where: str
) -> None:
    log = json.loads(INSPECT.read_text())
    damage(log)
    plain = tmp_path / "log.json"
    plain.write_text(json.dumps(log))
    with pytest.raises(DataError, match=rf"log.json: samples.1.{where}"):
        load(plain)
    path = packed(tmp_path / "log.eval", log)
    with pytest.raises(DataError, match=rf"member 'samples/refund-1_epoch_1.json': {where}"):
        load(path)


@pytest.mark.parametrize("path", [LM_EVAL, TRACES])
def test_every_broken_line_is_named(tmp_path: Path, path: Path) -> None:
    lines = path.read_text().splitlines()
    lines[1], lines[3] = lines[1][:-9], "[" * 100_000
    bad = tmp_path / path.name
    bad.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"2 problem\(s\)\n  line 2: .*\n  line 4: .*recursion"):
        load(bad)


def test_scores_that_are_no_numbers_are_left_out() -> None:
    values: dict[str, object] = {
        "a": float("nan"), "b": float("inf"), "c": 1.5, "d": "0.5", "e": None, "f": [1],
        "g": 10**400, "h": -0.1, "i": True, "j": 0,
    }  # fmt: skip
    assert imports.kept_scores(values) == ({"i": 1.0, "j": 0.0}, 8)


@pytest.mark.parametrize("counts", [(0, 3, 0, 0), (None, 3, 0, 0), (9, None, 0, 0), (9, 3, 10, 0)])
def test_tokens_that_were_not_all_counted_are_unknown(counts: tuple[int, int, int, int]) -> None:
    assert imports.usage_of(*counts) is None


def test_what_was_written_to_a_cache_is_kept() -> None:
    usage = imports.usage_of(100, 7, cached=20, reasoning=None, written=50, written_1h=30)
    assert usage == Usage(
        input_tokens=100,
        cached_input_tokens=20,
        cache_write_5m_tokens=20,
        cache_write_1h_tokens=30,
        output_tokens=7,
    )
    assert imports.usage_of(100, 7, cached=60, reasoning=None, written=50) is None  # 110 of 100


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = json.loads(INSPECT.read_text())
    log["samples"][2]["store"] = {"zeros": "0" * 3_000_000}
    path = packed(tmp_path / "log.eval", log)
    assert path.stat().st_size < 100_000
    unpacked: list[str] = []
    original = inspect_log._unpacked
    monkeypatch.setattr(
        inspect_log, "_unpacked", lambda a, i: unpacked.append(i.filename) or original(a, i)
    )
    monkeypatch.setattr(inspect_log, "MAX_FILE_BYTES", 2_000_000)
    with pytest.raises(DataError, match=r"unpacks to 3\d{6} bytes; at most 2000000"):
        load(path)
    assert unpacked == []
    monkeypatch.setattr(inspect_log, "MAX_FILE_BYTES", 10_000_000)
    monkeypatch.setattr(inspect_log, "MAX_DOCUMENT_BYTES", 1_000_000)
    with pytest.raises(DataError, match=r"member 'samples/refund-2_epoch_1.json': 3\d{6} bytes"):
        load(path)
    assert "samples/refund-2_epoch_1.json" not in unpacked


def test_a_member_that_says_it_is_smaller_is_refused(tmp_path: Path) -> None:
    header = INSPECT.read_bytes()
    path = zstandard(tmp_path / "log.eval", {"header.json": header})
    lying = path.read_bytes().replace(
        len(header).to_bytes(4, "little"), (500).to_bytes(4, "little")
    )
    path.write_bytes(lying)
    with pytest.raises(DataError, match="member 'header.json': cannot be unpacked"):
        load(path)


def test_names_of_members_lead_nowhere(tmp_path: Path) -> None:
    log = json.loads(INSPECT.read_text())
    log["samples"] = [{**log["samples"][0], "id": "../../../escaped"}]
    folder = tmp_path / "a" / "b" / "c" / "d"
    folder.mkdir(parents=True)
    assert list(load(packed(folder / "log.eval", log))) == ["../../../escaped"]
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["log.eval"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PK\x03\x04 and no more", "Expecting value|expected"), (b"", "no answers")],
)
def test_no_log_at_all(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "log.eval"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(path)


def test_a_zip_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    with pytest.raises(DataError, match=r"no header.json in it: not an Inspect AI log"):
        load(path)


def response(**more: Any) -> Response:
    return Response(
        example_id="e1", request_sha256="0", model="m", started_at_s=0, latency_s=None, **more
    )


@pytest.mark.parametrize(
    ("answer", "name", "value", "reason"),
    [
        (response(text="x", recorded_scores={"match": 0.5}), "match", 0.5, ""),
        (response(text="x", recorded_scores={"match": 0.5}), "bleu", None, "may be: match"),
        (response(text="x", recorded_scores={"match": 0.5}), None, None, "may be: match"),
        (response(text="x"), "match", None, "may be: none"),
        (response(text="no", outcome="refused", recorded_scores={"match": 1.0}), "match", 0.0,
         "refused"),
        (response(error="500", outcome="failed"), "match", None, "500"),
    ],
)  # fmt: skip
def test_a_recorded_score_is_taken_over(
    answer: Response, name: str | None, value: float | None, reason: str
) -> None:
    example = Example(id="e1", messages=(Message(role="user", content="?"),), target="x")
    spec = MetricSpec(metric="recorded_score", params={"name": name} if name else {})
    (score,) = grade("harness", spec, [example], [answer], Grading())
    assert score.value == value
    assert reason in score.reason


def test_a_recorded_score_without_a_recorded_answer() -> None:
    from pipelines import metrics

    example = Example(id="e1", messages=(), target="x")
    with pytest.raises(ScoringError, match="e1: only a recorded answer"):
        metrics.load("recorded_score")(example, "x")


@pytest.mark.parametrize(
    ("path", "score", "expected"),
    [
        # Right: refund-0, login-0. Wrong: refund-1, the JSON, the refusal. One call failed.
        (f"{PROMPTFOO}#openai:gpt-4o", "score", (2 / 5, 5, 2 / 5, 5)),
        # Found by `doc.id`; delivery-1 and refund-1 are "[invalid]".
        (f"{LM_EVAL}#strict-match", "exact_match", (4 / 6, 6, 4 / 6, 6)),
        # Right: refund-0, login-0. Wrong: refund-1, refund-2, filtered, too long. One call failed.
        (str(INSPECT), "match", (2 / 6, 6, 2.5 / 6, 6)),
    ],
)
def test_another_harness_s_log_is_evaluated(
    small_study: Path, store_uri: str, capsys: pytest.CaptureFixture[str],
    path: str, score: str, expected: tuple[float, int, float, int],
) -> None:  # fmt: skip
    overrides = [
        f"candidates.frontier.recorded={path}",
        "workload.metrics.harness.metric=recorded_score",
        f"workload.metrics.harness.params.name={score}",
    ]
    options = Options(small_study, store_uri, dry_run=False, json=False)
    evaluated = evaluate(load_study(small_study, overrides), options)
    assert isinstance(evaluated, EvaluateResults)
    found = evaluated.results["frontier"].metrics
    ours, theirs = found["accuracy"], found["harness"]
    assert ours is not None
    assert theirs is not None
    assert (ours.mean, ours.n_scored, theirs.mean, theirs.n_scored) == pytest.approx(expected)
    said = capsys.readouterr().err
    assert f"evaluate: {path}: {imports.detect(recorded.split(path)[0]).TITLE}, " in said


def test_ids_that_do_not_match_are_both_named(small_study: Path, store_uri: str) -> None:
    study = load_study(small_study, [f"candidates.frontier.recorded={TRACES}"])
    path = Path(study.workload.eval_set.path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, [{**row, "id": f"item-{k}"} for k, row in enumerate(rows)])
    with pytest.raises(DataError, match=r"its ids are such as 'refund-0', those .* 'item-0'"):
        evaluate(study, Options(small_study, store_uri, dry_run=False, json=False))
