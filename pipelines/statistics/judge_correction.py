"""Judge verdicts on many answers corrected by human labels on a random few of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from pipelines.core.records import Difference, Estimate, Record
from pipelines.statistics.agreement import Figure, Groups, agreement, group_sums
from pipelines.statistics.intervals import CONFIDENCE, Scores, Z, difference, estimate


class CorrectedMean(Record):
    """One candidate's mean as the judge sees it, as humans see it, and from both."""

    judge_only: Estimate | None
    """All verdicts, uncorrected: its interval knows nothing of the judge's errors."""
    human_only: Estimate | None
    """The human labels alone."""
    corrected: Estimate | None
    """PPI++; `n_scored` counts the answers behind it, labelled or judged; None: see `reason`."""
    judge_weight: float | None
    """PPI++'s lambda in [0, 1]: 0 = the judge tells nothing, 1 = its errors are few."""
    error: float | None = None
    """Standard error of `corrected`, before it is cut to what is possible."""
    n_labelled: int
    """Answers with a human label and a verdict."""
    n_judged: int
    """Answers with a verdict and no label."""
    reason: str = ""
    """Why `corrected` is None."""


class CorrectedDifference(Record):
    """Candidate - incumbent on the same items, by the judge, by humans, and from both."""

    judge_only: Difference | None
    """All verdicts, uncorrected: wrong by the judge's leniency to one of the two."""
    human_only: Difference | None
    """The human labels alone."""
    corrected: Difference | None
    """PPI++; `n` counts the items behind it, labelled or judged. None: see `reason`."""
    judge_weight: float | None
    """PPI++'s lambda in [0, 1]: 0 = the judge tells nothing, 1 = its errors are few."""
    error: float | None = None
    """Standard error of `corrected`, before it is cut to what is possible."""
    n_groups: int = 0
    """Independent units with labels and verdicts: t of n_groups - 1 degrees."""
    skew: float = 0.0
    """Skewness of the estimate: that of a unit's part in it over the root of their number."""
    n_labelled: int
    """Items with labels and verdicts of both answers."""
    n_judged: int
    """Items with verdicts of both answers and not both labels."""
    reason: str = ""
    """Why `corrected` is None."""


class CorrectedShare(Record):
    """A pass rate corrected by the judge's error rates (Rogan and Gladen 1978)."""

    judge_only: Estimate | None
    """Share passed by the judge of the answers without a label, uncorrected."""
    corrected: Figure
    """(judge_only - FPR) / (TPR - FPR), cut to [0, 1]."""
    true_positive_rate: Figure
    """Of the judge, on the labelled answers: sensitivity."""
    false_positive_rate: Figure
    """Of the judge, on the labelled answers: 1 - specificity."""


def corrected_mean(judge: Scores, human: Scores, groups: Groups = None) -> CorrectedMean:
    """Mean of human labels, from few labels and many verdicts (see `_power_tuned`).

    Args:
        judge: answer id -> verdict in [0, 1].
        human: answer id -> label in [0, 1], for a random part of the answers.
        groups: answer id -> answers that are not independent.
    """
    found = _power_tuned(judge, human, groups, lowest=0.0)
    return CorrectedMean(
        judge_only=estimate(judge, groups),
        human_only=estimate(human, groups),
        corrected=found.bounds
        and Estimate(
            low=found.bounds[0],
            mean=found.bounds[1],
            high=found.bounds[2],
            n_scored=found.n_behind,
            n_total=len(judge.keys() | human.keys()),
        ),
        judge_weight=found.weight,
        error=found.error,
        n_labelled=found.n_labelled,
        n_judged=found.n_judged,
        reason=found.reason,
    )


def corrected_difference(
    judge: tuple[Scores, Scores], human: tuple[Scores, Scores], groups: Groups = None
) -> CorrectedDifference:
    """Mean paired difference of human labels, from few labels and many verdicts.

    The correction is made on the differences: a judge errs differently on each candidate, so
    that one sensitivity and specificity for both would leave its leniency in.

    Args:
        judge: verdicts in [0, 1] on the candidate's and on the incumbent's answers, by item.
        human: labels in [0, 1] of the same, for a random part of the items.
        groups: item id -> items that are not independent.
    """
    found = _power_tuned(_minus(*judge), _minus(*human), groups, lowest=-1.0)
    return CorrectedDifference(
        judge_only=difference(*judge, groups),
        human_only=difference(*human, groups),
        corrected=found.bounds
        and Difference(
            low=found.bounds[0],
            mean=found.bounds[1],
            high=found.bounds[2],
            n=found.n_behind,
        ),
        judge_weight=found.weight,
        error=found.error,
        n_groups=found.n_groups,
        skew=found.skew,
        n_labelled=found.n_labelled,
        n_judged=found.n_judged,
        reason=found.reason,
    )


def corrected_share(judge: Scores, human: Scores) -> CorrectedShare:
    """Pass rate of independent answers, corrected by the judge's two error rates.

    The verdicts on answers without a label give the apparent rate, the labelled ones the error
    rates; interval of Lang and Reiczigel (2014), which knows that all three are estimates.
    `corrected_mean` has the shorter interval and takes groups; this one shows where the judge
    errs, and serves where the labelled answers are chosen by their label.

    Raises:
        ValueError: a verdict or label is neither 0, 1 nor None.
    """
    errors = agreement(judge, human)
    rest = {i: j for i, j in judge.items() if j is not None and human.get(i) is None}
    return CorrectedShare(
        judge_only=estimate(rest),
        corrected=_rogan_gladen(rest, errors.true_positive_rate, errors.false_positive_rate),
        true_positive_rate=errors.true_positive_rate,
        false_positive_rate=errors.false_positive_rate,
    )


def lang_reiczigel(
    judged: tuple[int, int], sensitivity: tuple[int, int], specificity: tuple[int, int]
) -> tuple[float, float] | None:
    """Interval of a share seen through a test with estimated error rates, cut to [0, 1].

    Lang and Reiczigel 2014, eq. 16, with the misprint in their eq. 4 mended as in R's asht.
    None when the shrunken rates sum to 1 or less: too few labels to correct with.

    Args:
        judged: positive, all.
        sensitivity: positive of the truly positive, all truly positive.
        specificity: negative of the truly negative, all truly negative.
    """
    (n_passed, n), (n_hit, n_right), (n_rejected, n_wrong) = judged, sensitivity, specificity
    apparent, weight = (n_passed + Z * Z / 2) / (n + Z * Z), n + Z * Z
    hit, rejected = (n_hit + 1) / (n_right + 2), (n_rejected + 1) / (n_wrong + 2)
    youden = hit + rejected - 1
    if youden <= 0:
        return None
    share = (apparent + rejected - 1) / youden
    by_hits = hit * (1 - hit) / (n_right + 2)
    by_rejected = rejected * (1 - rejected) / (n_wrong + 2)
    shift = 2 * Z * Z * (share * by_hits - (1 - share) * by_rejected)
    spread = apparent * (1 - apparent) / weight
    spread += share**2 * by_hits + (1 - share) ** 2 * by_rejected
    half = Z * math.sqrt(spread) / youden
    low, high = np.clip([share + shift - half, share + shift + half], 0.0, 1.0).tolist()
    return low, high


def _rogan_gladen(rest: Mapping[str, float], hits: Figure, alarms: Figure) -> Figure:
    if hits.value is None or alarms.value is None:
        return Figure(value=None, n=len(rest), reason=hits.reason or alarms.reason)
    if not rest:
        return Figure(value=None, n=0, reason="every verdict is on a labelled answer")
    youden = hits.value - alarms.value
    bounds = lang_reiczigel(
        (round(sum(rest.values())), len(rest)),
        (round(hits.value * hits.n), hits.n),
        (round((1 - alarms.value) * alarms.n), alarms.n),
    )
    if youden <= 0 or bounds is None:
        reason = (
            f"the judge passes {hits.value:.0%} of what humans pass (n = {hits.n}) and "
            f"{alarms.value:.0%} of what they fail (n = {alarms.n}): that cannot be inverted"
        )
        return Figure(value=None, n=len(rest), reason=reason)
    share = min(1.0, max(0.0, (sum(rest.values()) / len(rest) - alarms.value) / youden))
    # The limits lie about the shrunken share, which can leave the plain one just outside.
    low, high = min(share, bounds[0]), max(share, bounds[1])
    return Figure(value=share, low=low, high=high, n=len(rest))


class _Tuned(NamedTuple):
    bounds: tuple[float, float, float] | None
    """Low, mean, high."""
    weight: float | None
    n_behind: int
    n_labelled: int
    n_judged: int
    reason: str = ""
    error: float | None = None
    n_groups: int = 0
    skew: float = 0.0


def _power_tuned(judge: Scores, human: Scores, groups: Groups, lowest: float) -> _Tuned:
    """PPI++ for a mean in [lowest, 1], with its interval (Angelopoulos, Duchi and Zrnic 2023).

    lam * mean_N(J) + mean_n(Y - lam * J) over n labelled and N other items, with lam =
    cov_n(Y, J) / ((1 + n/N) var(J)) cut to [0, 1]; any lam is right on average, this one has the
    smallest variance for independent items. Variance: influences summed by group; t(G_n - 1).
    """
    labelled = [i for i, y in human.items() if y is not None and judge.get(i) is not None]
    rest = [i for i, j in judge.items() if j is not None and human.get(i) is None]
    n, n_rest = len(labelled), len(rest)
    g, g_rest = (len(group_sums(np.ones(len(ids)), ids, groups)) for ids in (labelled, rest))
    if g < 2:
        reason = f"{g} independent item(s) with a label and a verdict; a correction needs 2"
        return _Tuned(None, None, 0, n, n_rest, reason)
    y = np.array([human[i] for i in labelled], dtype=float)
    seen, unseen = (np.array([judge[i] for i in ids], dtype=float) for ids in (labelled, rest))
    variance = float(np.concatenate([seen, unseen]).var(ddof=1))
    weight, behind = 0.0, labelled
    if g_rest > 1 and variance > 0:
        covariance = float(((y - y.mean()) * (seen - seen.mean())).mean())
        weight = min(1.0, max(0.0, covariance / ((1 + n / n_rest) * variance)))
    errors = y - weight * seen
    mean, parts = float(errors.mean()), (errors - errors.mean()) / n * math.sqrt(g / (g - 1))
    if weight > 0:
        mean += weight * float(unseen.mean())
        far = weight * (unseen - unseen.mean()) / n_rest * math.sqrt(g_rest / (g_rest - 1))
        parts, behind = np.concatenate([parts, far]), labelled + rest
    sums = group_sums(parts, behind, groups)
    # 1 / g^2: one group more in which judge and human differ. Without it, 100 labels on a
    # candidate that is 95 % right under a judge that is 98 % right cover 88 %, since most such
    # samples show next to no error; with it 95.6. Long groups of loosely tied items pay in width.
    error = math.sqrt(float((sums**2).sum()) + 1 / g**2)
    skew = float((sums**3).sum()) / error**3
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, g - 1)) * error
    low, middle, high = np.clip([mean - half, mean, mean + half], lowest, 1.0).tolist()
    return _Tuned((low, middle, high), weight, len(behind), n, n_rest, "", error, g, skew)


def _minus(ours: Scores, theirs: Scores) -> Scores:
    found = {i: (a, theirs.get(i)) for i, a in ours.items()}
    return {i: a - b for i, (a, b) in found.items() if a is not None and b is not None}
