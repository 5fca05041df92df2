"""Run a whole study: prepare, finetune, serve, evaluate, decide.

    python -m pipelines.run configs/quickstart.yaml

Reads:  the study
Writes: one MLflow run per stage and candidate; what is done is skipped, what was cut goes on
Next:   python -m pipelines.promote configs/quickstart.yaml
"""

from __future__ import annotations

import sys

from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.decision import Decision
from pipelines.core.paths import shown
from pipelines.core.records import Record
from pipelines.core.study import Study
from pipelines.decide import REPORT, decide


def run(study: Study, options: Options) -> Record:
    """Each stage asks for the one before it; the last one asks for all."""
    return decide(study, options)


def show(record: Record) -> str:
    """The decision table, and where to look next."""
    from pipelines.reports import terminal
    from pipelines.tracking import store

    assert isinstance(record, Decision)
    report = store.artifact(record.run_id, REPORT)
    return (
        f"{terminal.table(record)}\n\nReport:    {shown(report)}\nMLflow UI: {store.ui_command()}"
    )


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, show))
