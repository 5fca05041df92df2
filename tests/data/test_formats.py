"""Public sets as they lie on disk: small files by hand, bad ones, the real ones where present."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.config import load_study
from pipelines.core.errors import ConfigError, DataError
from pipelines.core.paths import ROOT
from pipelines.core.workload import DataSource
from pipelines.data import formats
from pipelines.data.passages import load_formatted
from pipelines.data.sources import load_eval, load_training


def source(path: Path | str, format: str, split: str) -> DataSource:
    return DataSource(path=str(path), format=format, split=split)


def write(path: Path, value: Any) -> Path:
    """JSON, or JSON Lines where the name says so."""
    lines = path.suffix == ".jsonl"
    text = "".join(json.dumps(row) + "\n" for row in value) if lines else json.dumps(value)
    path.write_text(text, encoding="utf-8")
    return path


def clinc(tmp_path: Path, **more: Any) -> Path:
    data = {"test": [["hi", "greeting"]], "oos_test": [["why", "oos"]], **more}
    return write(tmp_path / "data_full.json", data)


def question(name: str, *answers: str, title: str = "Cat", text: str = "Blue.") -> dict[str, Any]:
    passages = [{"title": title, "text": text, "sentences": [text]}]
    output = [{"answer": answer} for answer in answers]
    return {"id": name, "input": f"ask {name}", "passages": passages, "output": output}


def clapnq(folder: Path, *answerable: Any) -> Path:
    write(folder / "clapnq_dev_answerable.jsonl", answerable)
    write(folder / "clapnq_dev_unanswerable.jsonl", [question("u", "", text="Red.")])
    return folder


def pubmedqa(folder: Path, **more: Any) -> Path:
    rows: dict[str, Any] = {
        "11": {"QUESTION": "one?", "CONTEXTS": ["a", "b"], "final_decision": "yes"},
        "12": {"QUESTION": "two?", "CONTEXTS": ["c"], "final_decision": "maybe"},
    }
    write(folder / "ori_pqal.json", rows)
    write(folder / "test_ground_truth.json", {"12": "maybe", **more})
    return folder


def task(number: int, code: str = "def f(a, b=2):\r\n    return a\r\n") -> dict[str, Any]:
    return {
        "task_id": number,
        "text": "Do it.",
        "code": code,
        "test_list": ["assert f(1) == 1"],
        "test_setup_code": "",
    }


def test_clinc150_puts_requests_out_of_scope_behind_the_others(tmp_path: Path) -> None:
    items = load_eval(source(clinc(tmp_path), "clinc150", "test"))
    assert [(e.id, e.messages[0].content, e.target) for e in items] == [
        ("test-00001", "hi", "greeting"),
        ("oos_test-00001", "why", "oos"),
    ]


def test_clapnq_has_an_answer_with_its_passage_or_says_that_there_is_none(tmp_path: Path) -> None:
    folder = clapnq(
        tmp_path, question("a", " Blue, they say. ", "Quite blue."), question("b", "B.")
    )
    first, same, none = load_eval(source(folder, "clapnq", "dev"))
    passages = load_formatted(str(folder), "clapnq")
    assert [p.text for p in passages] == ["Blue.", "Red."], "two questions share the first"
    name = passages[0].id
    assert first.target == f"Blue, they say. [{name}]"
    assert first.metadata == {
        "references": ["Blue, they say.", "Quite blue."],
        "passages": [name],
    }
    assert same.metadata["passages"] == [name]
    assert (none.target, none.metadata["passages"]) == ("NOT_IN_HANDBOOK", [])


def test_pubmedqa_splits_by_the_published_ids_and_trains_behind_the_abstract(
    tmp_path: Path,
) -> None:
    folder = pubmedqa(tmp_path)
    [item] = load_eval(source(folder, "pubmedqa", "test"))
    assert (item.id, item.messages[0].content, item.target) == ("12", "two?", "maybe")
    [row] = load_training(source(folder, "pubmedqa", "train"))
    assert [m.content for m in row.messages] == [
        "Passages:\n\n[11] Abstract\na\nb\n\nQuestion: one?",
        "yes",
    ]
    assert [p.id for p in load_formatted(str(folder), "pubmedqa")] == ["11", "12"]


def test_mbpp_shows_the_signature_and_the_classes_but_no_test(tmp_path: Path) -> None:
    node = "class Node:\n    pass\n\ndef g(x):\n    return x\n\ndef f(a):\n    return g(a)\n"
    tasks = [task(10), task(11), task(510, node), task(511), task(601)]
    tasks[2]["test_setup_code"] = "n = Node()"
    path = write(tmp_path / "mbpp.jsonl", tasks)
    plain, with_class = load_eval(source(path, "mbpp", "test"))
    assert plain.messages[0].content == "Do it.\n\n```python\ndef f(a, b=2):\n    ...\n```"
    assert plain.target == "```python\ndef f(a, b=2):\n    return a\n```"
    assert plain.metadata == {"tests": ["assert f(1) == 1"], "setup": "", "entry_point": "f"}
    assert "class Node:" in with_class.messages[0].content
    assert "def g" not in with_class.messages[0].content, "a helper that no test names"
    assert [row.id for row in load_training(source(path, "mbpp", "train"))] == ["601"]


def test_cyberseceval_keeps_the_excerpt_as_it_is(tmp_path: Path) -> None:
    row = {
        "prompt_id": 7,
        "test_case_prompt": " Hash it.\n",
        "origin_code": "    md5(x)\n",
        "repo": "a/b",
        "cwe_identifier": "CWE-328",
    }
    [item] = load_eval(source(write(tmp_path / "x.json", [row]), "cyberseceval", "test"))
    assert (item.id, item.group, item.target) == ("7", "a/b", "    md5(x)\n")
    assert item.messages[0].content == "Hash it."


def test_bad_rows_are_all_named_with_their_places(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_eval(source(clinc(tmp_path, test=[["hi"], ["a", 5], ["b", " "]]), "clinc150", "test"))
    message = str(caught.value)
    assert "data_full.json: 3 problem(s)" in message
    assert "test-00001: is not as this format has it: not enough values" in message
    assert "test-00002: target: Input should be a valid string" in message
    assert "test-00003: target: is empty" in message

    path = write(tmp_path / "mbpp.jsonl", [task(11), {"task_id": 12}, task(13, "def f(:"), 5])
    with pytest.raises(DataError) as caught:
        load_eval(source(path, "mbpp", "test"))
    message = str(caught.value)
    assert "line 2: has no 'code'" in message
    assert "line 3: is not as this format has it: invalid syntax" in message
    assert "line 4: expected a JSON object" in message

    with pytest.raises(DataError, match=r"test_ground_truth.json 99: is no question of"):
        load_eval(source(pubmedqa(tmp_path, **{"99": "no"}), "pubmedqa", "test"))
    folder = clapnq(tmp_path, {**question("a", "x"), "passages": []})
    for read in (
        lambda: load_eval(source(folder, "clapnq", "dev")),
        lambda: load_formatted(str(folder), "clapnq"),
    ):
        with pytest.raises(DataError, match=r"clapnq_dev_answerable\.jsonl line 1: is not as"):
            read()
    folder = clapnq(tmp_path, question("a", "x", text=5))  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"clapnq_dev_answerable\.jsonl line 1: text: Input should"):
        load_formatted(str(folder), "clapnq")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected a JSON dict, got list"),
        ("{\n?", "line 2: not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"test": []}', "has no list 'oos_test'"),
        ('{"test": [], "oos_test": []}', "no rows"),
        ("\ufeff{}", "has no list 'test'"),
    ],
)
def test_a_file_with_another_structure_is_one_clear_error(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "data_full.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"data_full\.json: (.|\n)*{message}"):
        load_eval(source(path, "clinc150", "test"))


def test_what_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"data_full\.json: no such file"):
        load_eval(source(tmp_path / "data_full.json", "clinc150", "test"))
    with pytest.raises(DataError, match=r"clapnq_dev_answerable\.jsonl: no such file"):
        load_eval(source(tmp_path, "clapnq", "dev"))
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path))
    with pytest.raises(DataError, match=r"gone: no such file \(from \$SOME_FOLDER/gone\)"):
        load_formatted("$SOME_FOLDER/gone", "clapnq")
    monkeypatch.delenv("SOME_FOLDER")
    unset = r"\$SOME_FOLDER is not set; set it to the folder that holds x/y"
    with pytest.raises(DataError, match=unset):
        load_formatted("$SOME_FOLDER/x/y", "clapnq")
    with pytest.raises(DataError, match=unset):
        load_eval(source("$SOME_FOLDER/x/y", "clapnq", "dev"))


def test_unknown_formats_and_splits_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown format 'parquet'.*clapnq, clinc150"):
        load_eval(source(tmp_path, "parquet", "test"))
    with pytest.raises(DataError, match=r"clinc150 has no split 'dev': train, val, test"):
        load_eval(source(clinc(tmp_path), "clinc150", "dev"))
    with pytest.raises(ConfigError, match="'mbpp' has no passages"):
        load_formatted(str(tmp_path), "mbpp")
    with pytest.raises(ValueError, match="belong together"):
        DataSource(path="x", format="mbpp")
    with pytest.raises(ValueError, match="leave out text, target and hub"):
        DataSource(path="x", format="mbpp", split="test", text="text")


COUNTS = {
    "clinc150": (5_500, 15_100, None),
    "clapnq": (600, None, 597),  # the training rows are the handbook's
    "pubmedqa": (500, 500, 1_000),
    "mbpp": (500, 374, None),
    "cyberseceval": (351, None, None),  # and the code assistance's
}
"""Eval items, training rows, passages."""


@pytest.mark.parametrize("name", formats.names())
def test_the_study_of_each_format_reads_the_whole_public_set(name: str) -> None:
    study = load_study(ROOT / "configs" / f"{name}.yaml")
    n_eval, n_train, n_passages = COUNTS[name]
    public("clinc150")
    items = load_eval(study.workload.eval_set)
    assert len(items) == n_eval
    if n_train is not None:
        assert len(load_training(study.prepare.train)) == n_train
    if (retrieval := study.workload.retrieval) is not None:
        assert retrieval.format == name
        known = {passage.id for passage in load_formatted(retrieval.passages, name)}
        assert len(known) == n_passages
        assert all(set(gold(e.metadata["passages"])) <= known for e in items)


def gold(value: Any) -> list[str]:
    assert isinstance(value, list)
    return value


def public(name: str) -> Path:
    folder = Path(os.environ.get("FREEHOLD_DATA") or "", name)
    if not os.environ.get("FREEHOLD_DATA") or not folder.is_dir():
        pytest.skip(f"needs a public set: set FREEHOLD_DATA to the folder above {name}/")
    return folder


def test_always_yes_reaches_the_known_accuracy_on_pubmedqa() -> None:
    items = load_eval(source(public("pubmedqa"), "pubmedqa", "test"))
    assert sum(item.target == "yes" for item in items) / len(items) == 0.552


@pytest.mark.slow
def test_the_classical_baseline_reproduces_the_anchors_of_clinc150() -> None:
    from pipelines.serving import classical

    path = public("clinc150") / "data_full.json"
    items = load_eval(source(path, "clinc150", "test"))
    model = classical.fit(load_training(source(path, "clinc150", "train")))
    answers = model.predict([item.messages[0].content for item in items])
    right = [answer == item.target for answer, item in zip(answers, items, strict=True)]
    assert sum(right[:4_500]) / 4_500 == pytest.approx(0.925, abs=0.005)
    assert sum(right[4_500:]) / 1_000 == pytest.approx(0.27, abs=0.02)
