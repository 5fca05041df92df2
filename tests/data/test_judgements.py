"""Recorded verdicts: what the public files hold, and how broken files are named."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import DataError
from pipelines.data.judgements import LabelledAnswer, PairVerdict, load_evouna, load_llmbar
from pipelines.statistics.agreement import (
    Figure,
    PairAgreement,
    agreement,
    cohen_kappa,
    length_bias,
    pair_agreement,
)
from pipelines.statistics.judge_correction import corrected_difference

HEADER = "subset,item,human_label,judge_model,prompt_strategy,winner_order1,winner_swapped\n"


@pytest.fixture(scope="module")
def evouna(public_data: Path) -> dict[str, list[LabelledAnswer]]:
    if not (public_data / "evouna").is_dir():
        pytest.skip("needs the public EVOUNA set: put evouna/ into the folder FREEHOLD_DATA names")
    return load_evouna(public_data / "evouna")


@pytest.fixture(scope="module")
def llmbar(public_data: Path) -> list[PairVerdict]:
    if not (public_data / "llmbar").is_dir():
        pytest.skip("needs the public LLMBar set: put llmbar/ into the folder FREEHOLD_DATA names")
    return load_llmbar(public_data / "llmbar")


def cell(rows: list[PairVerdict], judge: str, subset: str) -> list[PairVerdict]:
    found = [r for r in rows if (r.judge, r.prompt) == (judge, "Vanilla")]
    return [r for r in found if r.subset == f"LLMBar/{subset}"]


def in_both_orders(rows: list[PairVerdict]) -> PairAgreement:
    first = {r.pair_id: r.first_order for r in rows}
    swapped = {r.pair_id: r.swapped_order for r in rows}
    return pair_agreement(first, swapped, {r.pair_id: r.human for r in rows})


@pytest.mark.parametrize(
    ("judge", "subset", "n", "first", "swapped", "flips", "kappa"),
    [  # statistics.json of princeton-nlp/LLMBar, prompt Vanilla: correct_False, correct_True, n -
        # equal, and kappa_agreement, Cohen's kappa of the two orders
        ("GPT-4", "Natural", 100, 95, 96, 5, 0.897708674304419),
        ("ChatGPT", "Natural", 100, 80, 83, 29, 0.4286840031520883),
        ("GPT-4", "Adversarial/Manual", 46, 35, 39, 8, 0.6521739130434783),
        ("ChatGPT", "Adversarial/Neighbor", 134, 30, 22, 38, 0.4616197927680271),
    ],
)
def test_llmbar_counts_are_the_authors(
    llmbar: list[PairVerdict],
    judge: str,
    subset: str,
    n: int,
    first: int,
    swapped: int,
    flips: int,
    kappa: float,
) -> None:
    rows = cell(llmbar, judge, subset)
    found = in_both_orders(rows)
    assert found.n_total == found.agreement.n == n
    assert found.first_order.value == pytest.approx(first / n)
    assert found.swapped_order.value == pytest.approx(swapped / n)
    assert found.agreement.value == pytest.approx((first + swapped) / 2 / n)
    assert found.flips.value == pytest.approx(flips / n)
    orders = {r.pair_id: r.first_order for r in rows}, {r.pair_id: r.swapped_order for r in rows}
    assert cohen_kappa(*orders).value == pytest.approx(kappa)


def test_adversarial_pairs_turn_a_weak_judge_around(llmbar: list[PairVerdict]) -> None:
    subsets = [f"Adversarial/{name}" for name in ("GPTInst", "GPTOut", "Manual", "Neighbor")]
    first = {
        judge: [in_both_orders(cell(llmbar, judge, s)).first_order.value for s in subsets]
        for judge in ("GPT-4", "ChatGPT")
    }
    # Right in the first order, of 92, 47, 46 and 134 pairs.
    assert first["GPT-4"] == pytest.approx([78 / 92, 35 / 47, 35 / 46, 104 / 134])
    assert first["ChatGPT"] == pytest.approx([25 / 92, 17 / 47, 18 / 46, 30 / 134])


def test_adversarial_answers_seduce_by_their_length(llmbar: list[PairVerdict]) -> None:
    rows = cell(llmbar, "ChatGPT", "Adversarial/GPTInst")
    found = length_bias(
        {r.pair_id: r.first_order for r in rows},
        {r.pair_id: r.human for r in rows},
        {r.pair_id: r.lengths for r in rows},
    )
    assert found.low is not None
    assert found.low > 0.2


def test_all_of_llmbar_is_read(llmbar: list[PairVerdict]) -> None:
    assert len(llmbar) == 30_963
    assert len({r.pair_id for r in llmbar}) == 419 + 466
    assert sum(r.first_order is None for r in llmbar) == 135  # no verdict could be read


def plain(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def usable(rows: list[LabelledAnswer]) -> list[LabelledAnswer]:
    return [r for r in rows if not r.improper and r.answer is not None and r.right is not None]


def has_gold(rows: list[LabelledAnswer]) -> dict[str, float]:
    golds = {r.id: [p for g in r.golds if (p := plain(g))] for r in rows}
    return {r.id: float(any(g in plain(r.answer or "") for g in golds[r.id])) for r in rows}


@pytest.mark.parametrize(
    ("name", "rates"),
    [  # GPT-4, Bing, ChatGPT, FiD, GPT-3.5
        ("NQ", [0.788, 0.799, 0.730, 0.689, 0.655]),
        ("TQ", [0.902, 0.896, 0.844, 0.815, 0.784]),
    ],
)
def test_evouna_human_accuracies(
    evouna: dict[str, list[LabelledAnswer]], name: str, rates: list[float]
) -> None:
    rows = [r for r in evouna[name] if not r.improper and r.right is not None]
    for system, rate in zip(("gpt4", "newbing", "chatgpt", "fid", "gpt35"), rates, strict=True):
        labels = [r.right for r in rows if r.system == system]
        assert sum(label is True for label in labels) / len(labels) == pytest.approx(rate, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "n", "share", "kappa"),
    [("NQ", 15_098, 0.8387, 0.6482), ("TQ", 9_690, 0.9141, 0.7250)],
)
def test_gold_string_in_answer_is_the_floor_for_a_judge(
    evouna: dict[str, list[LabelledAnswer]], name: str, n: int, share: float, kappa: float
) -> None:
    rows = usable(evouna[name])
    judge, human = has_gold(rows), {r.id: float(r.right is True) for r in rows}
    found = agreement(judge, human, groups={r.id: r.question_id for r in rows})
    assert found.agreement.n == n
    assert found.agreement.value == pytest.approx(share, abs=5e-5)
    assert found.kappa.value == pytest.approx(kappa, abs=5e-5)
    # The golds of a question serve five answers: their errors are tied.
    assert width(found.kappa) > 1.3 * width(agreement(judge, human).kappa)


def test_real_labels_mend_a_comparison_that_a_real_judge_turns_around(
    evouna: dict[str, list[LabelledAnswer]],
) -> None:
    # "Gold string in answer" is hard on long answers: it puts the small fine-tuned reader 1.3
    # points above ChatGPT, where humans put it 4.0 below.
    rows = usable(evouna["NQ"])
    verdicts = has_gold(rows)
    sides = [{r.question_id: r for r in rows if r.system == s} for s in ("fid", "chatgpt")]
    both = [tuple(side[q] for side in sides) for q in sides[0] if q in sides[1]]
    judged = np.array([[verdicts[r.id] for r in pair] for pair in both])
    labels = np.array([[float(r.right is True) for r in pair] for pair in both])
    truth, seen = (float((x[:, 0] - x[:, 1]).mean()) for x in (labels, judged))
    assert (truth, seen) == pytest.approx((-0.0401, 0.0129), abs=5e-5)
    rng, covered, judge_covers, n_runs = np.random.default_rng(15), 0, 0, 200
    for _ in range(n_runs):
        drawn = rng.choice(len(both), 1500)  # with replacement: the file is the population
        mine = [dict(zip(map(str, range(1500)), judged[drawn, k], strict=True)) for k in (0, 1)]
        people = [
            dict(zip(map(str, range(200)), labels[drawn[:200], k], strict=True)) for k in (0, 1)
        ]
        found = corrected_difference((mine[0], mine[1]), (people[0], people[1]))
        assert found.corrected is not None
        assert found.judge_only is not None
        covered += found.corrected.low <= truth <= found.corrected.high
        judge_covers += found.judge_only.low <= truth <= found.judge_only.high
    assert covered / n_runs >= 0.92
    assert judge_covers / n_runs < 0.1


def width(figure: Figure) -> float:
    assert figure.low is not None
    assert figure.high is not None
    return figure.high - figure.low


def write_llmbar(folder: Path, lines: str) -> Path:
    pair = {"input": "q", "output_1": "ab", "output_2": "abc", "label": 1}
    (folder / "LLMBar__Natural.json").write_text(json.dumps([pair]), encoding="utf-8")
    (folder / "judgements.csv").write_text(HEADER + lines, encoding="utf-8")
    return folder


def test_a_verdict_is_read_with_its_lengths(tmp_path: Path) -> None:
    (row,) = load_llmbar(write_llmbar(tmp_path, "LLMBar/Natural,0,1,GPT-4,CoT,2,\n"))
    assert (row.human, row.first_order, row.swapped_order) == (1.0, 0.0, None)
    assert (row.pair_id, row.lengths) == ("LLMBar/Natural/0", (2, 3))


def test_bad_rows_are_named_with_their_lines(tmp_path: Path) -> None:
    good = "LLMBar/Natural,0,1,GPT-4,CoT,1,2\n"
    bad = "LLMBar/Natural,0,2,GPT-4,CoT,1,2\nLLMBar/Natural,7,1,GPT-4,CoT,1,2\n"
    bad += "LLMBar/Natural,0,1,GPT-4,CoT,3,2\nLLMBar/Natural,0\n"
    with pytest.raises(DataError) as caught:
        load_llmbar(write_llmbar(tmp_path, good + bad))
    message = str(caught.value)
    assert "judgements.csv: 4 problem(s)" in message
    assert "line 3: human_label 2, the set has 1" in message
    assert "line 4: no '7'" in message
    assert "line 5: no '3'" in message
    assert "line 6: has not the columns subset, item" in message


def test_a_bad_answer_is_named_with_its_line(tmp_path: Path) -> None:
    row = {"question": "q", "golden_answer": "a/b", "improper": False}
    for system in ("fid", "gpt35", "chatgpt", "gpt4", "newbing"):
        row |= {f"answer_{system}": "a", f"judge_{system}": True}
    wrong = row | {"judge_gpt4": "maybe"}
    for name in ("NQ", "TQ"):
        (tmp_path / f"{name}.json").write_text(json.dumps([row, row], indent=1))
    assert load_evouna(tmp_path)["TQ"][0].golds == ("a", "b")
    (tmp_path / "TQ.json").write_text(json.dumps([row, wrong], indent=1))
    # [ is line 1; an object takes a line each for its braces and 13 fields: 2-16, then 17.
    with pytest.raises(DataError, match=r"TQ.json: 1 problem\(s\)\n  line 17: gpt4: right: "):
        load_evouna(tmp_path)
    (tmp_path / "TQ.json").write_text('[{"question":\n oops}]')
    with pytest.raises(DataError, match=r"TQ.json: line 2: not valid JSON"):
        load_evouna(tmp_path)
    with pytest.raises(DataError, match=r"judgements.csv: no such file"):
        load_llmbar(tmp_path)
