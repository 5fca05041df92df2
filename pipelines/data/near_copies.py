"""Find rows that repeat one another or an eval item, exactly or nearly, among millions."""

from __future__ import annotations

import hashlib
import math
import statistics
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import IO

import numpy as np

SHORT, LONG = 3, 5
"""Characters per shingle. Pieces of three find more of the short messages in which a word or a
letter was changed; forms and documents share most of these whatever they say."""
LONG_TEXT = 200
"""Characters from which the typical text is long."""
SKETCH = 128
"""Bytes that stand for a text: the lowest eight bits of each number of its MinHash signature."""
MAX_MISSED = 0.001
"""Share of the pairs right at the threshold that may not become candidates."""
TOLERANCE = 3.5
"""Standard deviations by which a pair worth an exact look may be estimated below the threshold."""
IN_BUCKET = 8
"""First rows of a bucket, with which the others are compared; bounds the work on templates."""
BATCH = 4096
SEED = 1

KEPT, DUPLICATE, CONFLICT, NEAR_DUPLICATE, LEAKED = range(5)
"""What a row is: the first of its kind, or why it is not."""


def find_copies(
    rows: Iterable[tuple[str, str]], items: Sequence[str], near_copy: float, *, nearly: bool = True
) -> np.ndarray:
    """Mark repeated questions, near-copies with the same answer, and copies of eval items.

    Of rows that repeat one another the first stays. A near-copy with another answer stays, too: in
    filled-in forms one figure makes the difference.

    Args:
        rows: normalised question, and answer, of each row; read once. About 400 bytes of memory
            are needed for each, however long it is; the texts go to a temporary file.
        items: normalised questions of the eval set.
        near_copy: Jaccard similarity of the sets of shingles from which two are copies.
        nearly: whether near-copies among the rows are marked; those of eval items always are.

    Returns:
        UInt8[Array, "rows"] of KEPT, DUPLICATE (same question and answer as a row before),
        CONFLICT (same question, another answer), NEAR_DUPLICATE, LEAKED.
    """
    bands, size = Bands.of(near_copy), shingle_size(items)
    with tempfile.TemporaryFile() as file:
        read = _read(rows, file, size)
        kinds = _repeated(read)
        first = np.flatnonzero(kinds == KEPT)
        of_item = _shingles_of(items.__getitem__, size)
        of_row = _shingles_of(read.text, size)
        theirs = sketches(items, size)
        for row, candidates in _grouped(bands.shared(read.sketches, first, theirs)):
            if any(jaccard(of_row(row), of_item(item)) >= near_copy for item in candidates):
                kinds[row] = LEAKED
        if nearly:
            first = np.flatnonzero(kinds == KEPT)
            for row, candidates in _grouped(bands.alike(read.sketches, first, read.answers)):
                if any(
                    kinds[before] == KEPT and jaccard(of_row(row), of_row(before)) >= near_copy
                    for before in candidates
                ):
                    kinds[row] = NEAR_DUPLICATE
    return kinds


def leaders(texts: Sequence[str], near_copy: float) -> np.ndarray:
    """The first text of which each is a near-copy, itself if there is none; Int[Array, "texts"]."""
    size = shingle_size(texts)
    of_text = _shingles_of(texts.__getitem__, size)
    leader = np.arange(len(texts))
    alike = Bands.of(near_copy).alike(
        sketches(texts, size), leader.copy(), np.zeros(len(texts), np.uint64)
    )
    for place, candidates in _grouped(alike):
        for before in candidates:
            if leader[before] == before and jaccard(of_text(place), of_text(before)) >= near_copy:
                leader[place] = before
                break
    return leader


def shingle_size(texts: Sequence[str]) -> int:
    """Characters per shingle, by the length of the typical text."""
    return LONG if texts and statistics.median(map(len, texts)) >= LONG_TEXT else SHORT


def shingles(text: str, size: int) -> frozenset[str]:
    """All pieces of `size` characters, marks on both ends included: short texts have some, too."""
    marked = _marked(text, size)
    return frozenset(marked[at : at + size] for at in range(len(marked) - size + 1))


def _shingles_of(text_at: Callable[[int], str], size: int) -> Callable[[int], frozenset[str]]:
    """Shingles by place, kept for a while: the first of many copies is asked for often."""
    return lru_cache(maxsize=1000)(lambda place: shingles(text_at(place), size))


def jaccard(mine: frozenset[str], theirs: frozenset[str]) -> float:
    """Shared pieces over all pieces, in [0, 1]."""
    shared = len(mine & theirs)
    return shared / (len(mine) + len(theirs) - shared)


def _marked(text: str, size: int) -> str:
    return "^" * (size - 1) + text + "$" * (size - 1)


def sketches(texts: Sequence[str], size: int) -> np.ndarray:
    """MinHash signatures of the sets of shingles, cut to a byte each; UInt8[Array, "texts 128"].

    The share of equal bytes of two sketches estimates their Jaccard similarity, 1/256 too high.
    """
    found = bytearray()
    for at in range(0, len(texts), BATCH):
        found += _sketched(texts[at : at + BATCH], size)
    return np.frombuffer(found, np.uint8).reshape(-1, SKETCH)


def _sketched(texts: Sequence[str], size: int) -> bytes:
    """`sketches` of some texts at once, one after another."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

    marked = [_marked(text, size) for text in texts]
    codes = np.frombuffer("".join(marked).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(text) for text in marked])
    grams = np.zeros(len(codes) - size + 1, np.uint64)
    for at in range(size):
        grams = (grams ^ codes[at : at + len(grams)]) * np.uint64(0x9E3779B97F4A7C15)
        grams ^= grams >> np.uint64(29)
    ends = np.cumsum(lengths)
    inside = np.ones(len(codes), bool)
    for back in range(1, size):
        inside[ends - back] = False  # these would reach into the next text
    offsets = np.concatenate([[0], np.cumsum(lengths - size + 1)]).astype(np.uint64)
    digests = RMinHash.digest_matrix_from_flat_token_hashes(
        grams[inside[: len(grams)]], offsets, SKETCH, SEED
    )
    return np.array(digests.to_rows(), np.uint32).astype(np.uint8).tobytes()


@dataclass(frozen=True)
class Bands:
    """How sketches are cut so that those which are alike enough fall into one bucket."""

    near_copy: float
    width: int
    """Bytes that must be equal for two texts to share a bucket."""
    n: int

    @classmethod
    def of(cls, near_copy: float) -> Bands:
        """As wide as `MAX_MISSED` allows: wide bands have fewer pairs that are not alike."""
        for width in range(8, 1, -1):
            n = SKETCH // width
            if (1 - near_copy**width) ** n <= MAX_MISSED:
                return cls(near_copy, width, n)
        return cls(near_copy, 1, SKETCH)

    @property
    def _least_equal(self) -> float:
        """Equal bytes of a pair that is worth an exact look."""
        spread = math.sqrt(self.near_copy * (1 - self.near_copy) / SKETCH)
        return SKETCH * (self.near_copy - TOLERANCE * spread)

    def _keys(self, sketched: np.ndarray, rows: np.ndarray, band: int) -> np.ndarray:
        """UInt64[Array, "rows"]: equal keys share the bucket."""
        padded = np.zeros((len(rows), 8), np.uint8)
        padded[:, : self.width] = sketched[rows, band * self.width : (band + 1) * self.width]
        return padded.view(np.uint64)[:, 0]

    def _close(
        self, mine: np.ndarray, rows: np.ndarray, theirs: np.ndarray, others: np.ndarray
    ) -> np.ndarray:
        """The pairs whose sketches are close, as `row << 32 | other`; UInt64[Array, "pairs"]."""
        found: list[np.ndarray] = []
        for at in range(0, len(rows), 1 << 16):
            row, other = rows[at : at + (1 << 16)], others[at : at + (1 << 16)]
            close = (mine[row] == theirs[other]).sum(axis=1) >= self._least_equal
            high = row[close].astype(np.uint64) << np.uint64(32)
            found.append(high | other[close].astype(np.uint64))
        return np.concatenate(found) if found else np.zeros(0, np.uint64)

    def shared(self, mine: np.ndarray, rows: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Pairs of one of `rows` of `mine` with any of `theirs`, as `row << 32 | other`."""
        pairs = np.zeros(0, np.uint64)
        for band in range(self.n if len(theirs) and len(rows) else 0):
            found: list[np.ndarray] = []
            wanted = self._keys(theirs, np.arange(len(theirs)), band)
            order = np.argsort(wanted, kind="stable")
            wanted = wanted[order]
            for at in range(0, len(rows), BATCH):
                some = rows[at : at + BATCH]
                keys = self._keys(mine, some, band)
                start = np.searchsorted(wanted, keys, "left")
                width = np.searchsorted(wanted, keys, "right") - start
                which = np.repeat(np.arange(len(some)), width)
                step = np.arange(len(which)) - np.repeat(np.cumsum(width) - width, width)
                others = order[start[which] + step]
                found.append(self._close(mine, some[which], theirs, others))
            pairs = np.union1d(pairs, np.concatenate(found))
        return pairs

    def alike(self, mine: np.ndarray, rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Pairs of one of `rows` with one before it of the same group, as `row << 32 | before`."""
        pairs = np.zeros(0, np.uint64)
        for band in range(self.n):
            keys = self._keys(mine, rows, band) * np.uint64(0x9E3779B97F4A7C15) ^ groups[rows]
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            is_first = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
            start = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
            place = np.arange(len(keys)) - start
            for k in range(IN_BUCKET):
                later = np.flatnonzero(place > k)
                if not len(later):
                    break
                before = rows[order[start[later] + k]]
                pairs = np.union1d(pairs, self._close(mine, rows[order[later]], mine, before))
        return pairs


@dataclass(frozen=True)
class _Read:
    """What is kept of the rows."""

    questions: np.ndarray
    """Digests; UInt64[Array, "rows"]."""
    answers: np.ndarray
    """Digests; UInt64[Array, "rows"]."""
    sketches: np.ndarray
    """UInt8[Array, "rows 128"]."""
    ends: array[int]
    """Where each text ends in `file`."""
    file: IO[bytes]

    def text(self, row: int) -> str:
        """The normalised question."""
        start = self.ends[row - 1] if row else 0
        self.file.seek(start)
        return self.file.read(self.ends[row] - start).decode("utf-8", "surrogatepass")


def _read(rows: Iterable[tuple[str, str]], file: IO[bytes], size: int) -> _Read:
    questions, answers, ends = array("Q"), array("Q"), array("Q")
    sketched = bytearray()
    end = 0
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH)):
        for question, answer in batch:
            text = question.encode("utf-8", "surrogatepass")
            file.write(text)
            end += len(text)
            ends.append(end)
            questions.append(digest(text))
            answers.append(digest(answer.strip().encode("utf-8", "surrogatepass")))
        sketched += _sketched([question for question, _ in batch], size)
    return _Read(
        np.frombuffer(questions, np.uint64),
        np.frombuffer(answers, np.uint64),
        np.frombuffer(sketched, np.uint8).reshape(-1, SKETCH),
        ends,
        file,
    )


def digest(text: bytes) -> int:
    """64 bits: two of 5 million texts have the same with a probability of 7 in 10 million."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _repeated(read: _Read) -> np.ndarray:
    """KEPT, DUPLICATE or CONFLICT of each row; UInt8[Array, "rows"]."""
    _, first, group = np.unique(read.questions, return_index=True, return_inverse=True)
    first = first[group]
    same = read.answers == read.answers[first]
    repeated = np.where(same, DUPLICATE, CONFLICT)
    return np.where(first == np.arange(len(first)), KEPT, repeated).astype(np.uint8)


def _grouped(pairs: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """Each row with the others it is paired with, in order."""
    rows, others = pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF)
    _, starts = np.unique(rows, return_index=True)
    for start, end in pairwise([*starts, len(rows)]):
        yield int(rows[start]), others[start:end].tolist()
