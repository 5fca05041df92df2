"""Serve the study's open model, tuned, with vLLM until Ctrl-C.

    python -m pipelines.serve configs/quickstart.yaml --set serve.port=8000
    python -m pipelines.serve configs/quickstart.yaml --champion

The second form serves the version that `promote` made champion, once signatures and approvals are
found to be as configs/policies/promotion.yaml demands for the workload's tier.

Reads:  the base model and the adapter of `finetune` (trained now if there is none)
Writes: the comparison of served and trained model, one MLflow run; prints the endpoint, a curl
Next:   python -m pipelines.evaluate configs/quickstart.yaml
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.core import command
from pipelines.core.candidate import Serving
from pipelines.core.command import Options
from pipelines.core.progress import say
from pipelines.core.records import Example, Record
from pipelines.core.results import ADAPTER, FinetuneResult, Plan, PlannedStage
from pipelines.core.study import Study
from pipelines.finetune import finetune
from pipelines.serving import own_server
from pipelines.serving.vllm_server import BASE, TUNED, check_installed, vllm_server


def serve(study: Study, options: Options) -> Record:
    """Fine-tune if needed, start vLLM, wait."""
    check_installed()
    tuned = finetune(study, options)
    if isinstance(tuned, Plan):
        line = PlannedStage(stage="serve", state="to do", note="until Ctrl-C")
        return Plan(stages=(*tuned.stages, line))
    assert isinstance(tuned, FinetuneResult)
    _until_stopped(study, tuned)
    return tuned


def serve_champion(study: Study, options: Options, _alias: str) -> Record:
    """Verify the registered champion, start vLLM on it, wait."""
    check_installed()

    from pipelines.evaluation import champion
    from pipelines.governance.egress import gate_of
    from pipelines.tracking import store

    store.connect(options.tracking_uri, gate_of(study.workload))
    with tempfile.TemporaryDirectory(prefix="freehold-champion-") as folder:
        found = champion.verified(study, Path(folder))
        say(f"serve: version {found.version} of {study.workload.name} may serve")
        if options.dry_run:
            note = f"version {found.version}, until Ctrl-C"
            return Plan(stages=(PlannedStage(stage="serve", state="to do", note=note),))
        _until_stopped(study, found.tuned, found.serving, found.adapter_dir)
    return found.tuned


def _until_stopped(
    study: Study,
    tuned: FinetuneResult,
    serving: Serving | None = None,
    adapter_dir: Path | None = None,
) -> None:
    from pipelines.data import sources
    from pipelines.tracking import store

    example = sources.load_eval(study.workload.eval_set)[0]
    with endpoint(study, tuned, serving, adapter_dir) as base_url:
        key_file = own_server.write_key(store.work_root() / "vllm.key")
        say(f"\n{_curl(base_url, key_file, tuned, example)}\n\nserve: up; Ctrl-C stops it")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            say("serve: stopping")


class Servers:
    """The vLLM of a study's own models: one process at a time, set up as the model wants it."""

    def __init__(self, study: Study, tuned: FinetuneResult | None) -> None:
        """Starts nothing; `tuned` is the adapter, None where no model uses it."""
        self._study, self._tuned = study, tuned
        self._running: Serving | None = None
        self._url = ""
        self._stack = ExitStack()

    def url(self, serving: Serving) -> str:
        """Base URL of the server for `serving`; one that was set up otherwise is stopped first."""
        if self._running != serving:
            self._stop()
            self._url = self._stack.enter_context(endpoint(self._study, self._tuned, serving))
            self._running = serving
        return self._url

    def _stop(self) -> None:
        self._running = None
        self._stack.close()

    def __enter__(self) -> Self:
        """Use in a `with` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop what runs."""
        self._stop()


@contextmanager
def endpoint(
    study: Study,
    tuned: FinetuneResult | None,
    serving: Serving | None = None,
    adapter_dir: Path | None = None,
) -> Generator[str]:
    """VLLM with the study's base and, if given, its adapter; yields the base URL.

    Nothing is loaded that could bring code with it, and the served model is compared with the
    trained one, once per model and setting.

    Args:
        study: the study.
        tuned: the adapter; `merged` needs it.
        serving: None = base and adapter side by side, not quantised.
        adapter_dir: where the adapter is; None = among the artifacts of `tuned`.

    Raises:
        Refused: the served model is not the one that was trained, or a file of it may run code.
        ServerError: the server does not come up, or does not answer.
    """
    from pipelines.evaluation import parity_gate
    from pipelines.governance import approval, model_signature
    from pipelines.tracking import store
    from pipelines.training import base_model

    config, serving = study.finetune, serving or Serving()
    model_dir, name = base_model.fetch(config.base), BASE
    if tuned is not None and adapter_dir is None:
        adapter_dir = store.artifact(tuned.run_id, ADAPTER)
    approval.check_base(model_dir)
    if adapter_dir is not None:
        model_signature.check_files(adapter_dir)
    gate = parity_gate.before_start(study, tuned, serving, model_dir, adapter_dir)
    if serving.weights == "merged":
        from pipelines.training.merge import merged

        assert adapter_dir is not None
        model_dir, name, adapter_dir = merged(model_dir, adapter_dir), TUNED, None
    plain = serving == Serving()
    log = "vllm.log" if plain else f"vllm-{serving.weights}-{serving.quantization}.log"
    with vllm_server(
        model_dir,
        adapter_dir,
        (tuned.lora_rank if tuned else None) or config.lora.rank,
        config.chat_template_options,
        study.serve,
        store.work_root() / log,
        quantization=serving.quantization,
        name=name,
    ) as base_url:
        if gate is not None:
            gate.check(base_url)
        yield base_url


def show(result: Record) -> str:
    """The result in words."""
    assert isinstance(result, FinetuneResult)
    return f"served the adapter of run {result.run_id}"


CHAMPION = command.Mode(
    "champion", ("champion",), "the registered champion, verified first", serve_champion, show
)


def _curl(base_url: str, key_file: Path, tuned: FinetuneResult, example: Example) -> str:
    system = [{"role": "system", "content": tuned.instructions}] if tuned.instructions else []
    body = {
        "model": TUNED,
        "messages": system + [m.model_dump() for m in example.messages],
        "max_tokens": 64,
        "temperature": 0,
    }
    return (
        f"curl {base_url}/chat/completions -H 'Content-Type: application/json' \\\n"
        f'  -H "Authorization: Bearer $(cat {shlex.quote(str(key_file))})" \\\n'
        f"  -d {shlex.quote(json.dumps(body))}"
    )


if __name__ == "__main__":
    sys.exit(command.main(__doc__, serve, show, mode=CHAMPION))
