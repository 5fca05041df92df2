from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.core.errors import DataError
from pipelines.core.results import Kind
from pipelines.data.score_file import MAX_SHOWN
from pipelines.data.score_table import MAX_CANDIDATES, MAX_SLICES, ScoreTable, read

NAN = float("nan")
ROWS: list[dict[str, Any]] = [
    {"candidate": "small", "example_id": "q1", "score": "1", "usd": "0.10", "slice": "easy"},
    {"candidate": "big", "example_id": "q1", "score": "0.5", "usd": "2", "slice": "easy"},
    {"candidate": "big", "example_id": "q2", "score": "", "usd": "3", "slice": "hard"},
    {"candidate": "small", "example_id": "q3", "score": "0", "usd": "", "slice": "hard"},
    {"candidate": "big", "example_id": "q3", "score": "1e-1", "usd": "4", "slice": ""},
]
BASIC = "example_id,candidate,score\nq1,a,1\nq2,a,0\nq1,b,1\nq2,b,1\n"


def written(folder: Path, text: str | bytes, name: str = "scores.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def csv_of(rows: Sequence[Mapping[str, Any]], separator: str = ",") -> str:
    lines = [rows[0].keys(), *([row[key] for key in rows[0]] for row in rows)]
    return "".join(separator.join(map(str, line)) + "\n" for line in lines)


def with_column(name: str, *values: str) -> str:
    """`BASIC` with one more column."""
    lines = zip(BASIC.splitlines(), (name, *values), strict=True)
    return "".join(f"{line},{value}\n" for line, value in lines)


def scored(*scores: str) -> str:
    """Scores of a on q1 and q2, then of b."""
    places = ("q1,a", "q2,a", "q1,b", "q2,b")
    rows = (f"{place},{score}\n" for place, score in zip(places, scores, strict=True))
    return "example_id,candidate,score\n" + "".join(rows)


def refusal(path: Path, incumbent: str = "a", kinds: Mapping[str, Kind] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(path, incumbent, kinds)
    message = str(caught.value)
    assert path.name in message.splitlines()[0]
    assert message.replace("\n", "").isprintable()
    return message


def check_rows(table: ScoreTable) -> None:
    """That a table says what `ROWS` say."""
    assert table.candidates == ("big", "small")
    assert table.ids == ("q1", "q2", "q3")
    np.testing.assert_array_equal(table.scores, [[0.5, 1], [NAN, NAN], [0.1, 0]])
    assert table.usd is not None
    np.testing.assert_array_equal(table.usd, [[2, 0.1], [3, NAN], [4, NAN]])
    assert {name: part.tolist() for name, part in table.slices.items()} == {
        "easy": [True, False, False],
        "hard": [False, True, True],
    }
    assert table.latency_s is None
    assert table.confidence is None
    assert table.groups is None
    assert table.kinds == {}
    assert table.n_rows == 5
    assert table.notes == ()


def json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", csv_of(ROWS)),
        ("s.CSV", csv_of(ROWS)),
        ("s.tsv", csv_of(ROWS, "\t")),
        ("semicolons.csv", csv_of(ROWS, ";")),
        ("windows.csv", b"\xef\xbb\xbf" + csv_of(ROWS).replace("\n", "\r\n").encode()),
        ("unended.csv", csv_of(ROWS).rstrip("\n")),
        ("blank_lines.csv", csv_of(ROWS).replace("\n", "\n\n")),
        ("results.v1.2[a]*{b}'.csv", csv_of(ROWS)),
        ("s.csv.gz", gzip.compress(csv_of(ROWS).encode(), mtime=0)),
        ("s.csv.zst", pyarrow.compress(csv_of(ROWS).encode(), codec="zstd", asbytes=True)),
        ("s.jsonl", json_lines(ROWS)),
        ("windows.jsonl", b"\xef\xbb\xbf" + json_lines(ROWS).replace("\n", "\r\n").encode()),
        ("blank_lines.ndjson", json_lines(ROWS).replace("\n", "\n\n")),
        ("s.jsonl.gz", gzip.compress(json_lines(ROWS).encode(), mtime=0)),
        ("s.jsonl.zst", pyarrow.compress(json_lines(ROWS).encode(), codec="zstd", asbytes=True)),
    ],
)
def test_every_kind_of_text_says_the_same(tmp_path: Path, name: str, content: str | bytes) -> None:
    check_rows(read(written(tmp_path, content, name), "big"))


def test_parquet_says_the_same_whatever_its_types(tmp_path: Path) -> None:
    rows = [
        (row["candidate"], row["example_id"], *(float(row[key] or NAN) for key in ("score", "usd")))
        for row in ROWS
    ]
    values = ", ".join(
        f"('{a}', '{b}', {c}, {d}, '{row['slice']}')" if c == c and d == d else
        f"('{a}', '{b}', {'NULL' if c != c else c}, {'NULL' if d != d else d}, '{row['slice']}')"
        for (a, b, c, d), row in zip(rows, ROWS, strict=True)
    )  # fmt: skip
    path = tmp_path / "s.parquet"
    duckdb.sql(
        f"""COPY (SELECT candidate, example_id, score::DOUBLE AS score, usd::DECIMAL(9, 2) AS usd,
        slice FROM (VALUES {values}) AS t(candidate, example_id, score, usd, slice))
        TO '{path}'"""
    )
    check_rows(read(path, "big"))


def test_scores_may_be_words_and_json_may_have_types(tmp_path: Path) -> None:
    path = written(tmp_path, scored("True", "no", "YES", " 0 "))
    assert read(path, "a").scores.tolist() == [[1, 1], [0, 0]]
    rows = [
        {"example_id": 1, "candidate": "a", "score": True, "confidence": -2.5},
        {"example_id": 1, "candidate": "b", "score": 0.25, "latency_s": 1},
        {"example_id": 2, "candidate": "b", "score": None, "usd": None},
        {"example_id": 2, "candidate": "a", "score": False, "output_tokens": 7},
    ]
    table = read(written(tmp_path, json_lines(rows), "s.jsonl"), "a")
    assert table.ids == ("1", "2")
    np.testing.assert_array_equal(table.scores, [[1, 0.25], [0, NAN]])
    assert table.usd is None
    assert table.latency_s is not None
    np.testing.assert_array_equal(table.latency_s, [[NAN, 1], [NAN, NAN]])
    assert table.confidence is not None
    np.testing.assert_array_equal(table.confidence, [[-2.5, NAN], [NAN, NAN]])
    assert table.notes == ("output_tokens: checked, and not priced; dollars come from usd",)


def test_a_key_that_comes_late_is_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"example_id": k, "candidate": name, "score": 1} for k in range(1500) for name in "ab"
    ]
    rows[-1]["usd"] = 2
    table = read(written(tmp_path, json_lines(rows), "s.jsonl"), "a")
    assert table.usd is not None
    assert np.nansum(table.usd) == 2
    assert table.usd[1499, 1] == 2


def test_groups_number_items_and_an_item_without_one_stands_alone(tmp_path: Path) -> None:
    text = (
        "example_id,candidate,score,group\n"
        "q1,a,1,x\nq2,a,1,\nq3,a,1,y\nq4,a,1,\nq5,a,1,x\nq1,b,1,x\nq2,b,1,\nq3,b,1,\n"
    )
    groups = read(written(tmp_path, text), "a").groups
    assert groups is not None
    assert [[bool(g == h) for h in groups] for g in groups] == [
        [i == j or {i, j} == {0, 4} for j in range(5)] for i in range(5)
    ]


def test_kinds_come_from_the_file_and_from_the_call(tmp_path: Path) -> None:
    path = written(tmp_path, with_column("kind", "Rent", "rent", "", ""))
    assert read(path, "a").kinds == {"a": "rent"}
    assert read(path, "a", {"a": "rent", "b": "own"}).kinds == {"a": "rent", "b": "own"}
    assert "candidate 'a' is of kind rent in the file" in refusal(path, kinds={"a": "own"})
    assert "'c' is not among the candidates" in refusal(path, kinds={"c": "own"})
    path = written(tmp_path, with_column("kind", "rent", "own", "baseline", "baseline"))
    assert "line 3: candidate 'a' has kind 'own', and 'rent' at line 2" in refusal(path)
    path = written(tmp_path, with_column("kind", "rent", "rent", "leased", "own"))
    message = refusal(path)
    assert "kind must be rent or own or baseline" in message
    assert "line 4: 'leased'" in message


def test_ignored_columns_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, with_column("cost_usd", "1", "2", "3", "4"))
    table = read(path, "a")
    assert table.notes == ("columns ignored (1): 'cost_usd' (did you mean usd?)",)
    assert table.usd is None
    assert read(written(tmp_path, with_column("zebra", *"1234")), "a").notes == (
        "columns ignored (1): 'zebra'",
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("s.xlsx", BASIC, "of no known kind; expected .csv"),
        ("scores", BASIC, "of no known kind"),
        ("s.parquet.gz", BASIC, "of no known kind"),
        ("s.csv", "", "is empty"),
        ("s.parquet", "", "is empty"),
        (
            "s.csv.gz",
            gzip.compress(b"", mtime=0),
            "no column example_id, candidate, score; it has none",
        ),
        ("s.csv", "example_id,candidate,score\n", "has no rows"),
        ("s.jsonl", "[1]\n", "no JSON object"),
        ("s.parquet", BASIC, "cannot be read"),
        ("s.csv.gz", BASIC, "cannot be read"),
        ("s.csv", BASIC.encode("utf-16"), "no header in UTF-8"),
        ("s.csv", BASIC + "q3,a\n", "line 6: missing columns"),
        ("s.csv", BASIC + "q3,a,1,1\n", "line 6: too many columns"),
        ("s.csv", BASIC + '"q3,a,1\n', "line 6: a quote that does not fit"),
        ("s.csv", BASIC.encode() + b"q\xe9,a,1\n", "line 6: invalid encoding"),
        ("s.csv", BASIC.replace("\n", "\r"), "no header in UTF-8"),
        ("s.csv.gz", gzip.compress(BASIC.encode(), mtime=0)[:-20], "cannot be read"),
        ("s.jsonl", json_lines([{"a": 1}])[:-2] + "[" * 100_000, "no JSON object"),
        ("s.csv", "example_id,candidate,score,score\nq1,a,1,1\n", "column score is there twice"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    assert says in refusal(written(tmp_path, content, name))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.csv")


@pytest.mark.parametrize("name", ["s.csv", "s.jsonl", "s.parquet"])
def test_names_that_others_use_are_suggested(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        duckdb.sql(f"COPY (SELECT 'q' AS item, 'a' AS model, 1 AS Correct) TO '{path}'")
    else:
        row = {"item": "q", "model": "a", "Correct": 1}
        written(tmp_path, csv_of([row]) if name.endswith("csv") else json_lines([row]), name)
    message = refusal(path)
    assert "no column example_id, candidate, score; it has 'item', 'model', 'Correct'" in message
    assert "rename 'item' to example_id, 'model' to candidate, 'Correct' to score" in message


def test_misspelled_names_are_suggested(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, BASIC.replace("example_id", "Exampel ID")))
    assert "no column example_id; it has 'Exampel ID', 'candidate', 'score'; rename" in message
    assert "rename" not in refusal(written(tmp_path, BASIC.replace("score", "x")))


@pytest.mark.parametrize("value", ["abc", "nan", "inf", "-inf", "-0.01", "1.01", "1e400", "0;5"])
def test_scores_that_are_none(tmp_path: Path, value: str) -> None:
    message = refusal(written(tmp_path, scored("1", "0", value, "1")))
    assert "score must be a number from 0 to 1" in message
    assert f"line 4: {value!r}" in message
    assert ("percentages" in message) == (value == "1.01")


def test_percentages_get_a_hint(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, scored("87", "0.5", "", "100")))
    assert "divide by 100" in message
    assert "line 2: '87'\n  line 5: '100'" in message
    assert "divide by 100" not in refusal(written(tmp_path, scored("87", "0.5", "", "101")))
    assert "divide by 100" not in refusal(written(tmp_path, scored("87", "0.5", "x", "100")))


def test_only_the_first_bad_rows_are_listed(tmp_path: Path) -> None:
    rows = [f"q{k},{name},2\n" for k in range(20) for name in "ab"]
    message = refusal(written(tmp_path, "example_id,candidate,score\n" + "".join(rows)))
    assert f"... and {40 - MAX_SHOWN} more" in message
    assert len(message.splitlines()) == MAX_SHOWN + 2


@pytest.mark.parametrize("name", ["usd", "latency_s", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "€0.10", "$5"])
def test_amounts_that_are_none(tmp_path: Path, name: str, value: str) -> None:
    message = refusal(written(tmp_path, with_column(name, "1", "0", "", value)))
    assert f"{name} must be" in message
    assert f"line 5: {value!r}" in message


def test_confidence_may_be_negative_and_not_infinite(tmp_path: Path) -> None:
    path = written(tmp_path, with_column("confidence", "-1", "0", "", "3"))
    confidence = read(path, "a").confidence
    assert confidence is not None
    np.testing.assert_array_equal(confidence, [[-1, NAN], [0, 3]])
    path = written(tmp_path, with_column("confidence", "-1", "0", "", "inf"))
    assert "line 5: 'inf'" in refusal(path)


def test_another_currency_is_refused(tmp_path: Path) -> None:
    assert (
        read(written(tmp_path, with_column("currency", "USD", "usd", "", " USD")), "a").notes == ()
    )
    message = refusal(written(tmp_path, with_column("currency", "USD", "EUR", "", "USD")))
    assert "currency must be USD" in message
    assert "line 3: 'EUR'" in message


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    text = 'example_id,candidate,score\n\n"q\n""1",a,1\nq2,a,1\n\n"q\n""1",b,1\nq2,b,9\n'
    assert "line 9: '9'" in refusal(written(tmp_path, text))
    assert read(written(tmp_path, text.replace(",9", ",0")), "a").ids == ('q\n"1', "q2")
    text = 'example_id;candidate;score\nq";a,;1\n5";a,;7\n'
    assert "line 3: '7'" in refusal(written(tmp_path, text))
    good = json.dumps({"example_id": 'q"', "candidate": "a", "score": 1})
    lines = f"{good}\n\n \n{good.replace('1', '7')}\n"
    assert "line 4: '7'" in refusal(written(tmp_path, lines, "s.jsonl"))


def test_long_values_may_stand_beside_scores(tmp_path: Path) -> None:
    prompt = '"' + "word\n" * 50_000 + '"'
    text = with_column("prompt", "", prompt, "", "")
    assert read(written(tmp_path, text), "a").ids == ("q1", "q2")
    assert "row 3: '7'" in refusal(written(tmp_path, text.replace("q1,b,1", "q1,b,7")))


def test_rows_of_parquet_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    duckdb.sql(
        "COPY (SELECT * FROM (VALUES ('q', 'a', 1.0), ('q', 'b', 'nan'::DOUBLE)) "
        f"AS t(example_id, candidate, score)) TO '{path}'"
    )
    assert "row 2: 'nan'" in refusal(path)


@pytest.mark.parametrize("broken", ['{"example_id": ', "[1, 2]", "7", '{"candidate": "a"}', "{}"])
def test_json_that_is_no_row(tmp_path: Path, broken: str) -> None:
    good = json.dumps({"example_id": "q", "candidate": "a", "score": 1})
    message = refusal(written(tmp_path, f"{good}\n{broken}\n", "s.jsonl"))
    assert "line 2: no example_id, or no JSON object" in message


@pytest.mark.parametrize(("row", "what"), [(",a,1", "example_id"), ("q, ,1", "candidate")])
def test_rows_without_names(tmp_path: Path, row: str, what: str) -> None:
    assert f"line 6: no {what}" in refusal(written(tmp_path, f"{BASIC}{row}\n"))


def test_repeated_rows_say_where_the_first_stands(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, BASIC + "q2,a,0\nq1,b,\n"))
    assert "line 6: example_id 'q2' of 'a' stands already at line 3" in message
    assert "line 7: example_id 'q1' of 'b' stands already at line 4" in message


@pytest.mark.parametrize("name", ["group", "slice"])
def test_an_item_has_one_group_and_one_slice(tmp_path: Path, name: str) -> None:
    message = refusal(written(tmp_path, with_column(name, "x", "y", "x", "z")))
    assert f"line 5: example_id 'q2' has {name} 'z', and 'y' at line 3" in message
    assert len(message.splitlines()) == 2


def test_candidates_that_cannot_be_compared(tmp_path: Path) -> None:
    path = written(tmp_path, BASIC)
    assert "'gpt' is not among the candidates; name one of them: 'a', 'b'" in refusal(path, "gpt")
    assert "only one candidate, 'a'" in refusal(written(tmp_path, BASIC.replace(",b,", ",a,")))
    one = "example_id,candidate,score\nq1,a,1\nq1,b,1\n"
    assert "only one item, 'q1'" in refusal(written(tmp_path, one))
    apart = "example_id,candidate,score\nq1,a,1\nq2,a,1\nq2,b,1\nq3,c,1\nq1,d,\n"
    message = refusal(written(tmp_path, apart))
    assert "no item has a score of 'c', 'd' and of the incumbent 'a'" in message
    assert "'a' has no score at all" in refusal(written(tmp_path, scored("", "", "1", "1")))


def test_too_many_candidates_or_slices(tmp_path: Path) -> None:
    def rows(n: int) -> str:
        return "".join(f"q{k % 2},{k // 2},1,\n" for k in range(2 * n))

    header = "example_id,candidate,score,slice\n"
    path = written(tmp_path, header + rows(MAX_CANDIDATES))
    assert len(read(path, "0").candidates) == MAX_CANDIDATES
    path = written(tmp_path, header + rows(MAX_CANDIDATES + 1))
    assert "51 candidates, 50 at most; is `candidate` a name that differs" in refusal(path, "0")
    sliced = [f"q{k},{name},1,s{k}\n" for k in range(MAX_SLICES + 1) for name in "ab"]
    path = written(tmp_path, header + "".join(sliced[:-2]))
    assert len(read(path, "a").slices) == MAX_SLICES
    assert "101 slices, 100 at most" in refusal(written(tmp_path, header + "".join(sliced)))


HOSTILE = ["=cmd()", "a'b\"c", "\x1b[31m", "\u202etfel", "{x}\\", "'; DROP TABLE", "x" * 10_000]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_hostile_names_are_kept_and_shown_harmlessly(tmp_path: Path, kind: str) -> None:
    rows = [
        {"example_id": item, "candidate": candidate, "score": 1, "note\x1b[2J": 0}
        for item, candidate in itertools.product(HOSTILE, HOSTILE)
    ]

    def content() -> str:
        if kind == "jsonl":
            return json_lines(rows)
        quoted = [
            {key: f'"{value.replace(chr(34), 2 * chr(34))}"' for key, value in row.items()}
            for row in [{key: str(value) for key, value in row.items()} for row in rows]
        ]
        return csv_of(quoted)

    for name in HOSTILE:
        table = read(written(tmp_path, content(), f"s.{kind}"), name)
        assert table.candidates == (name, *sorted({*HOSTILE} - {name}))
        assert table.ids == tuple(HOSTILE)
        assert table.scores.tolist() == [[1] * len(HOSTILE)] * len(HOSTILE)
        assert table.notes == (r"columns ignored (1): 'note\x1b[2J'",)
    assert "'y" in refusal(tmp_path / f"s.{kind}", "y\x1b[31m" * 9000)
    rows += rows
    message = refusal(written(tmp_path, content(), f"s.{kind}"), HOSTILE[0])
    assert len(message) < 2000
    assert "stands already at line" in message


CELLS = st.fixed_dictionaries(
    {
        "score": st.sampled_from(["", "0", "0.25", "1", "true"]),
        "usd": st.sampled_from(["", "0", "0.5"]),
        "latency_s": st.sampled_from(["", "1.5"]),
    }
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cells=st.dictionaries(
        st.tuples(st.integers(2, 9), st.sampled_from(["b", "c"])), CELLS, max_size=20
    ),
    seed=st.randoms(use_true_random=False),
)
def test_the_order_of_rows_changes_only_the_order_of_items(
    tmp_path: Path, cells: dict[tuple[int, str], dict[str, str]], seed: Any
) -> None:
    cells |= {
        (item, name): {"score": "1", "usd": "", "latency_s": ""}
        for item in (0, 1)
        for name in "abc"
    }
    rows = [
        {"example_id": f"q{item}", "candidate": name, **cell, "group": item // 3, "slice": item % 2}
        for (item, name), cell in cells.items()
    ]
    shuffled = seed.sample(rows, len(rows))
    one = read(written(tmp_path, csv_of(rows)), "a")
    other = read(written(tmp_path, csv_of(shuffled)), "a")
    assert list(other.ids) == list(dict.fromkeys(row["example_id"] for row in shuffled))
    assert sorted(one.ids) == sorted(other.ids)
    assert one.candidates == other.candidates
    at = [other.ids.index(name) for name in one.ids]
    np.testing.assert_array_equal(one.scores, other.scores[at])
    for mine, theirs in ((one.usd, other.usd), (one.latency_s, other.latency_s)):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            np.testing.assert_array_equal(mine, theirs[at])
    assert one.groups is not None
    assert other.groups is not None
    same = one.groups[:, None] == one.groups[None, :]
    np.testing.assert_array_equal(same, other.groups[at][:, None] == other.groups[at][None, :])
    assert one.slices.keys() == other.slices.keys()
    for name, part in one.slices.items():
        np.testing.assert_array_equal(part, other.slices[name][at])


def test_long_files_keep_their_order(tmp_path: Path) -> None:
    n_items = 60_000
    path = tmp_path / "s.csv"
    duckdb.sql(
        f"""COPY (SELECT 'q' || (k % {n_items} * 7919 % {n_items}) AS example_id,
            CASE WHEN k < {n_items} THEN 'a' ELSE 'b' END AS candidate,
            (k % {n_items} * 7919 % {n_items}) / {n_items}.0 AS score
            FROM range({2 * n_items}) AS t(k) ORDER BY k) TO '{path}' (HEADER)"""
    )
    table = read(path, "a")
    numbers = np.arange(n_items) * 7919 % n_items
    assert table.ids == tuple(f"q{number}" for number in numbers)
    np.testing.assert_allclose(table.scores, np.stack([numbers, numbers], axis=1) / n_items)


def test_a_name_with_a_star_is_one_file(tmp_path: Path) -> None:
    written(tmp_path, BASIC.replace("q", "other"), "ab.csv")
    assert read(written(tmp_path, BASIC, "a*.csv"), "a").ids == ("q1", "q2")
