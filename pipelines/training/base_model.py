"""Bring the open weights onto the disk: built, downloaded, or given."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable
from pathlib import Path

from pipelines.core.errors import ConfigError
from pipelines.core.paths import ROOT, cache_dir, shown
from pipelines.core.progress import progress, say
from pipelines.core.study import BaseModelRef
from pipelines.training import toy_base
from pipelines.training.base_identity import identity

WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""What is taken from the hub: no pickle, no code."""


def fetch(ref: BaseModelRef) -> Path:
    """Folder with config, safetensors and tokenizer.

    Raises:
        ConfigError: the folder is no model, or the hub cannot be reached.
    """
    if ref.build == "toy":
        return _cached(identity(ref), _build_toy)
    if ref.hub is not None:
        return _download(ref.hub, ref.revision)
    assert ref.path is not None
    folder = ROOT / ref.path
    if not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
        raise ConfigError(
            f"finetune.base.path: {shown(folder)} holds no model "
            "(expected config.json, *.safetensors and the tokenizer's files)"
        )
    return folder


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the names and contents of the weight and tokenizer files."""
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".jinja")
    ):
        with path.open("rb") as file:
            digest.update(
                f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    """Folder `name` in the cache; built once, also when two processes want it."""
    folder = cache_dir() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            build(folder)
    return folder


def _build_toy(folder: Path) -> None:
    say(f"finetune: building the toy base model in {folder} (once; it is a toy, not an LLM)")
    with progress("finetune: pre-training the toy", 100, "%") as advance:
        done = 0

        def report(step: int, total: int) -> None:
            nonlocal done
            percent = 100 * step // total
            advance(percent - done)
            done = percent

        toy_base.build(folder, progress=report)


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    say(f"finetune: fetching {repository} from the hub")
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=WANTED))
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise ConfigError(
            f"finetune.base.hub: {repository} cannot be fetched: {str(error).splitlines()[0]}\n"
            "  log in with `hf auth login` if it is gated, or give a local folder: "
            "--set 'finetune.base={path: FOLDER}'"
        ) from None
