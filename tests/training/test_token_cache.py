"""Tokens on the disk are those that are made in memory, found again, and never half written."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.core.config import load_study
from pipelines.core.errors import DataError, UserError
from pipelines.core.paths import ROOT
from pipelines.core.records import Message, TrainingRow
from pipelines.core.row_file import RowFile, opened
from pipelines.core.study import FinetuneConfig
from pipelines.training import lora, search, token_cache, toy_base
from pipelines.training.chat_rows import encode
from pipelines.training.packing import Packer, lay, n_scored
from pipelines.training.token_cache import DATA, KEPT, SHA256, rows_sha256, tokens
from tests.training.test_launch import one_thread
from tests.training.test_lora import base as tiny
from tests.training.test_lora import config as tiny_config

assert tiny  # the fixtures: an untrained Llama of 60,000 parameters; one thread
assert one_thread


def row(*turns: str) -> TrainingRow:
    """Turns of user and assistant, beginning with the user."""
    roles = ("user", "assistant")
    return TrainingRow(
        messages=tuple(
            Message.model_validate({"role": roles[n % 2], "content": text})
            for n, text in enumerate(turns)
        )
    )


ROWS = [row(f"refund number {k}", "refund") for k in range(30)]
ROWS += [row("parcel", "parcel number 7", "login\u2028number", "login"), row("login", "a" * 50)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    words = ["refund parcel login number 0123456789"]
    toy_base.train_tokenizer(words * 3).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


Make = Callable[..., token_cache.TokenRows]


@pytest.fixture
def make(base: Path, tokenizer: Any, tmp_path: Path) -> Make:
    def made(
        rows: Sequence[TrainingRow] = ROWS, instructions: str = "Name it.", **more: Any
    ) -> token_cache.TokenRows:
        return tokens(rows, base, tokenizer, config(**more), instructions, tmp_path / "tokens")

    return made


def config(**more: Any) -> FinetuneConfig:
    return load_study(ROOT / "configs" / "quickstart.yaml").finetune.model_copy(update=more)


def expected(tokenizer: Any, loss: Any = "last") -> list[dict[str, list[int]]]:
    return encode(
        ROWS, tokenizer, instructions="Name it.", max_tokens=500, template_options={}, loss=loss
    )


def plain(found: token_cache.TokenRows) -> list[tuple[list[int], list[int]]]:
    return [(each["input_ids"].tolist(), each["labels"].tolist()) for each in found]


def sets(folder: Path) -> list[Path]:
    """The data sets of the cache, oldest use first."""
    found = [path for path in (folder / "tokens").iterdir() if path.is_dir()]
    return sorted(found, key=lambda path: path.stat().st_mtime)


class Counted(list[TrainingRow]):
    """Says how often it is read from the beginning: once for the digest, once to be tokenised."""

    n_reads = 0

    def __iter__(self) -> Iterator[TrainingRow]:
        self.n_reads += 1
        return super().__iter__()


@pytest.mark.parametrize(
    ("loss", "marked", "n_sequences"), [("last", True, 32), ("all", True, 32), ("all", False, 33)]
)
def test_the_tokens_are_those_made_in_memory(
    make: Make,
    tokenizer: Any,
    loss: str,
    marked: bool,
    n_sequences: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not marked:  # an answer is then a sequence of its own
        text = re.sub(r"\{%-? *(end)?generation *-?%\}", "", tokenizer.chat_template)
        monkeypatch.setattr(tokenizer, "chat_template", text)
    found, in_memory = make(loss=loss), expected(tokenizer, loss)
    assert len(found) == len(in_memory) == n_sequences
    assert found.n_rows == 32
    assert plain(found) == [(each["input_ids"], each["labels"]) for each in in_memory]
    assert found.lengths.tolist() == [len(each["input_ids"]) for each in in_memory]
    scored = sum(label >= 0 for each in in_memory for label in each["labels"])
    assert found.n_scored_tokens == scored
    assert found[-1]["input_ids"].tolist() == in_memory[-1]["input_ids"]
    with pytest.raises(IndexError):
        found[len(found)]


def test_packs_of_mapped_rows_are_those_of_lists_bit_for_bit(make: Make, tokenizer: Any) -> None:
    found, in_memory = make(), expected(tokenizer)
    assert n_scored(found) == n_scored(in_memory)
    for rank in (0, 1):
        packer = Packer(100, None, rank, 2)
        mapped, listed = packer(list(found)), packer(in_memory)
        assert {k: v for k, v in mapped.items() if k != "packs"} == {
            k: v for k, v in listed.items() if k != "packs"
        }
        for one, other in zip(mapped["packs"], listed["packs"], strict=True):
            assert one.keys() == other.keys()
            for name, value in one.items():
                if isinstance(value, torch.Tensor):
                    assert value.dtype == other[name].dtype
                    assert torch.equal(value, other[name])
                else:
                    assert value == other[name]


def test_laying_changes_no_row(make: Make) -> None:
    found = make()
    before = plain(found)
    pack = lay(list(found))
    pack["input_ids"][:] = 0
    assert plain(found) == before


def test_a_second_start_finds_the_tokens(make: Make, tmp_path: Path) -> None:
    rows = Counted(ROWS)
    first = plain(make(rows))
    assert rows.n_reads == 2
    [place] = sets(tmp_path)
    assert plain(make(rows)) == first
    assert rows.n_reads == 3
    path = tmp_path / "train.jsonl"
    path.write_text("".join(each.model_dump_json() + "\n" for each in ROWS), encoding="utf-8")
    assert plain(make(opened(path), epochs=9, seed=3, learning_rate=1.0)) == first
    assert sets(tmp_path) == [place]
    assert place.stat().st_mode & 0o077 == 0, "others may read the rows"


def test_whatever_the_tokens_depend_on_makes_other_tokens(
    make: Make, base: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    for number, other in enumerate(
        [
            lambda: make(ROWS[:-1]),
            lambda: make(ROWS[::-1]),
            lambda: make(instructions="Name"),
            lambda: make(loss="all"),
            lambda: make(chat_template="mistral-v3"),
            lambda: make(chat_template_options={"enable_thinking": False}),
        ]
    ):
        other()
        assert len(sets(tmp_path)) == number + 2
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "chat_template", tokenizer.chat_template.replace("<|", "<||"))
        make()
    assert len(sets(tmp_path)) == 8
    (base / "added.json").write_text("{}")
    make()
    assert len(sets(tmp_path)) == 9
    (base / "model.safetensors").write_bytes(b"other weights")
    make()
    assert len(sets(tmp_path)) == 9


def test_a_template_with_the_date_is_rendered_anew_each_day(
    make: Make, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tomorrow(token_cache.date):
        @classmethod
        def today(cls) -> Any:
            return cls(2040, 1, 1)

    make()
    monkeypatch.setattr(tokenizer, "chat_template", "{# strftime_now #}" + tokenizer.chat_template)
    make()
    make()
    assert len(sets(tmp_path)) == 2
    monkeypatch.setattr(token_cache, "date", Tomorrow)
    make()
    assert len(sets(tmp_path)) == 3


def test_long_rows_are_refused_as_ever_and_their_tokens_are_kept(
    make: Make, tokenizer: Any, tmp_path: Path
) -> None:
    longest = max(len(each["input_ids"]) for each in expected(tokenizer))
    with pytest.raises(DataError) as in_memory:
        encode(ROWS, tokenizer, instructions="Name it.", max_tokens=30, template_options={})
    rows = Counted(ROWS)
    with pytest.raises(DataError) as caught:
        make(rows, max_tokens_per_row=30)
    assert str(caught.value) == str(in_memory.value)
    assert "of 32 training rows are longer than 30 tokens" in str(caught.value)
    make(rows, max_tokens_per_row=longest)
    assert rows.n_reads == 3  # two digests, tokenised once
    with pytest.raises(DataError, match=f"1 of 32 .* longer than {longest - 1} tokens"):
        make(rows, max_tokens_per_row=longest - 1)


def flip(place: Path) -> None:
    path = place / DATA
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda place: os.truncate(place / DATA, 100),
        lambda place: (place / DATA).unlink(),
        lambda place: (place / SHA256).write_bytes(b"\xff"),
        lambda place: (place / SHA256).unlink(),
    ],
    ids=["bit", "cut", "no-data", "digest", "no-digest"],
)
def test_damaged_tokens_are_made_again(
    make: Make, tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Counted(ROWS)
    first = plain(make(rows))
    [place] = sets(tmp_path)
    assert capsys.readouterr().err == ""
    damage(place)
    assert plain(make(rows)) == first
    assert rows.n_reads == 4
    assert capsys.readouterr().err == f"finetune: {place} is damaged: tokenising again\n"
    make(rows)
    assert rows.n_reads == 5


def apart(work: Callable[[], object]) -> int:
    """Start a process that does it; gives its id."""
    if pid := os.fork():
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_a_kill_leaves_no_half_data_set(make: Make, tmp_path: Path, tokenizer: Any) -> None:
    class Deadly(Counted):
        def __iter__(self) -> Iterator[TrainingRow]:
            for number, each in enumerate(super().__iter__()):
                if self.n_reads == 2 and number == 20:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield each

    _, status = os.waitpid(apart(lambda: make(Deadly(ROWS))), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    [left] = sets(tmp_path)
    assert ".partial-" in left.name
    found = make()
    assert plain(found) == [(each["input_ids"], each["labels"]) for each in expected(tokenizer)]
    [place] = sets(tmp_path)
    assert place.name == left.name.partition(".")[0]


def test_of_several_processes_one_tokenises_and_the_others_wait(make: Make, tmp_path: Path) -> None:
    builders = tmp_path / "builders"

    class Slow(Counted):
        def __iter__(self) -> Iterator[TrainingRow]:
            rows = super().__iter__()
            if self.n_reads == 2:
                with builders.open("a") as file:
                    file.write(f"{os.getpid()}\n")
                time.sleep(0.3)
            return rows

    def work() -> None:
        assert len(make(Slow(ROWS))) == 32

    processes = [apart(work) for _ in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in processes] == [0, 0, 0]
    assert len(builders.read_text().split()) == 1
    assert len(sets(tmp_path)) == 1


def test_what_another_machine_finished_first_is_taken(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = plain(make())
    [place] = sets(tmp_path)
    whole = place.rename(tmp_path / "whole")

    class Overtaken(Counted):
        def __iter__(self) -> Iterator[TrainingRow]:
            yield from super().__iter__()
            if self.n_reads == 2:
                # Where removing what is there comes first, as on a machine that sees it late.
                monkeypatch.setattr(token_cache.shutil, "rmtree", lambda *_, **__: None)
                whole.rename(place)

    assert plain(make(Overtaken(ROWS))) == first
    monkeypatch.undo()
    assert (place / DATA).exists()


def test_the_sets_that_were_used_last_stay(make: Make, tmp_path: Path) -> None:
    few = ROWS[:2]
    for number in range(KEPT):
        make(few, f"Name {number}.")
    for age, path in enumerate(reversed(sets(tmp_path))):
        os.utime(path, (1e9 - age, 1e9 - age))
    oldest, second = sets(tmp_path)[:2]
    make(few, "Name 0.")
    make(few, "Another.")
    left = sets(tmp_path)
    assert len(left) == KEPT
    assert oldest in left
    assert second not in left


def test_a_folder_that_takes_no_more_is_one_clear_error(make: Make, tmp_path: Path) -> None:
    import resource

    def work() -> None:
        # The kernel refuses to let any file grow beyond this, as a full disk would.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
        with pytest.raises(UserError, match=r"cannot write to .*tokens \(\d+ MiB free\): .*Errno"):
            make()

    assert os.waitpid(apart(work), 0)[1] == 0
    assert sets(tmp_path) == []


def test_no_rows_are_no_data_set(make: Make, tmp_path: Path) -> None:
    none = make([])
    assert (len(none), none.n_rows, none.n_scored_tokens) == (0, 0, 0)
    assert none.lengths.max(initial=0) == 0
    assert not none
    assert not (tmp_path / "tokens").exists()


def test_rows_are_read_from_their_file_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(each.model_dump_json() + "\n" for each in ROWS), encoding="utf-8")
    rows = opened(path)
    assert list(rows) == ROWS
    assert (len(rows), rows[3], rows[-1]) == (32, ROWS[3], ROWS[-1])
    assert list(rows[5:2:-2]) == ROWS[5:2:-2]
    assert list(rows.take(np.array([4, 1]))) == [ROWS[4], ROWS[1]]
    with pytest.raises(IndexError):
        rows[32]
    digests = {rows_sha256(rows), rows_sha256(ROWS), hashlib.sha256(path.read_bytes()).hexdigest()}
    assert len(digests) == 1
    assert rows_sha256(rows[1:]) == rows_sha256(ROWS[1:]) != rows_sha256(ROWS)
    (tmp_path / "empty").touch()
    assert list(opened(tmp_path / "empty")) == []


def test_the_same_rows_are_held_out_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(each.model_dump_json() + "\n" for each in ROWS), encoding="utf-8")
    parts = search.hold_out(opened(path), 0.3)
    assert all(isinstance(part, RowFile) for part in parts)
    assert tuple(map(list, parts)) == search.hold_out(ROWS, 0.3)


def test_a_training_on_a_file_is_that_on_a_list_and_shares_its_tokens(
    tiny: Path, tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(each.model_dump_json() + "\n" for each in ROWS), encoding="utf-8")
    settings = tiny_config(epochs=1, max_tokens_per_row=500)
    listed, mapped = (
        lora.train(tiny, rows, settings, "Name it.", tmp_path / name, lambda *_: None, rows[:4])
        for name, rows in (("a", ROWS), ("b", opened(path)))
    )
    assert mapped.adapter_sha256 == listed.adapter_sha256
    assert mapped.n_scored_tokens == listed.n_scored_tokens
    assert (mapped.base_eval_loss, mapped.eval_loss) == (listed.base_eval_loss, listed.eval_loss)
    assert len(sets(tmp_path)) == 2  # what is learned, and what is held out
