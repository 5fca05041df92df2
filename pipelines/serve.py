"""Serve the study's open model, tuned, with vLLM until Ctrl-C.

    python -m pipelines.serve configs/quickstart.yaml --set serve.port=8000

Reads:  the base model and the adapter of `finetune` (trained now if there is none)
Writes: nothing; prints the endpoint and a working curl
Next:   python -m pipelines.evaluate configs/quickstart.yaml
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pipelines.core import command
from pipelines.core.command import Options
from pipelines.core.progress import say
from pipelines.core.records import Example, Record
from pipelines.core.results import ADAPTER, FinetuneResult, Plan, PlannedStage
from pipelines.core.study import Study
from pipelines.finetune import finetune
from pipelines.serving.vllm_server import TUNED, check_installed, vllm_server


def serve(study: Study, options: Options) -> Record:
    """Fine-tune if needed, start vLLM, wait."""
    check_installed()
    tuned = finetune(study, options)
    if isinstance(tuned, Plan):
        line = PlannedStage(stage="serve", state="to do", note="until Ctrl-C")
        return Plan(stages=(*tuned.stages, line))
    assert isinstance(tuned, FinetuneResult)

    from pipelines.data import sources

    example = sources.load_eval(study.workload.eval_set)[0]
    with endpoint(study, tuned) as base_url:
        say(f"\n{_curl(base_url, tuned, example)}\n\nserve: up; Ctrl-C stops it")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            say("serve: stopping")
    return tuned


@contextmanager
def endpoint(study: Study, tuned: FinetuneResult | None) -> Generator[str]:
    """VLLM with the study's base and, if given, its adapter; yields the base URL."""
    from pipelines.tracking import store
    from pipelines.training import base_model

    config = study.finetune
    base_dir = base_model.fetch(config.base)
    adapter_dir = None if tuned is None else store.artifact(tuned.run_id, ADAPTER)
    log_path = store.work_root() / "vllm.log"
    with vllm_server(
        base_dir,
        adapter_dir,
        config.lora.rank,
        config.chat_template_options,
        study.serve,
        Path(log_path),
    ) as base_url:
        yield base_url


def show(result: Record) -> str:
    """The result in words."""
    assert isinstance(result, FinetuneResult)
    return f"served the adapter of run {result.run_id}"


def _curl(base_url: str, tuned: FinetuneResult, example: Example) -> str:
    system = [{"role": "system", "content": tuned.instructions}] if tuned.instructions else []
    body = {
        "model": TUNED,
        "messages": system + [m.model_dump() for m in example.messages],
        "max_tokens": 64,
        "temperature": 0,
    }
    return (
        f"curl {base_url}/chat/completions -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


if __name__ == "__main__":
    sys.exit(command.main(__doc__, serve, show))
