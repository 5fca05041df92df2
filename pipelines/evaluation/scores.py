"""What the scores of one candidate leave behind in memory: numbers, from which the figures come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pipelines.core.records import Estimate, Score
from pipelines.core.workload import MetricSpec
from pipelines.evaluation.grading import UNPARSEABLE
from pipelines.metrics import whole_set
from pipelines.statistics.intervals import estimate
from pipelines.statistics.judge_correction import corrected_mean


class ScoreBook:
    """Values, weights and labels of every metric, by example id; the rows are not kept."""

    def __init__(self, metrics: Mapping[str, MetricSpec]) -> None:
        """Start empty; `metrics` are the workload's."""
        self.values: dict[str, dict[str, float | None]] = {name: {} for name in metrics}
        self.n_unparseable: dict[str, int] = dict.fromkeys(metrics, 0)
        self.human: dict[str, dict[str, float]] = {
            name: {} for name, spec in metrics.items() if spec.judges
        }
        """Judged metric -> example id -> human label of that answer."""
        self._weights: dict[str, dict[str, float]] = {name: {} for name in metrics}
        self._labels: dict[str, dict[str, tuple[str, str] | None]] = {}
        self._whole_sets = {
            name: found
            for name, spec in metrics.items()
            if not spec.judges and (found := whole_set(spec.metric)) is not None
        }
        self._params = {name: metrics[name].params for name in self._whole_sets}
        for name in self._whole_sets:
            self._labels[name] = {}

    def noting(self, scores: Iterable[Score]) -> Iterator[Score]:
        """The same scores, each noted on its way."""
        for score in scores:
            self.values[score.metric][score.example_id] = score.value
            if score.weight != 1:
                self._weights[score.metric][score.example_id] = score.weight
            if score.metric in self._labels:
                self._labels[score.metric][score.example_id] = score.labels
            if score.human is not None:
                self.human[score.metric][score.example_id] = score.human
            self.n_unparseable[score.metric] += score.reason.startswith(UNPARSEABLE)
            yield score

    def is_plain_mean(self, name: str) -> bool:
        """True when every item of a metric counts the same, so that items can be compared."""
        return name not in self._whole_sets and not self._weights[name]

    def estimates(self, groups: Mapping[str, str]) -> dict[str, Estimate | None]:
        """Each metric over the whole set; None = not one response could be scored.

        A judged metric with human labels on some answers is corrected by them.

        Args:
            groups: example id -> group of items that are not independent.
        """
        found: dict[str, Estimate | None] = {}
        for name, values in self.values.items():
            if name in self._whole_sets:
                labels, params = self._labels[name], self._params[name]
                found[name] = self._whole_sets[name].of_labels(labels, groups, **params)
            else:
                found[name] = estimate(values, groups, self._weights[name])
                if human := self.human.get(name):
                    found[name] = corrected_mean(values, human, groups).corrected or found[name]
        return found

    def judged(self, groups: Mapping[str, str]) -> dict[str, Estimate | None]:
        """The judged metrics as the judges alone see them; arguments as in `estimates`."""
        return {name: estimate(self.values[name], groups) for name in self.human}
