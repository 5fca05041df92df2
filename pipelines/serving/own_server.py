"""How we speak to a vLLM of ours: with its key, and with no proxy between."""

from __future__ import annotations

import json
import os
import secrets
import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, cast

KEY_ENV = "FREEHOLD_SERVER_KEY"
"""Environment variable with the key that our vLLM asks for."""


def key_env() -> str:
    """`KEY_ENV`; where it is not set, this process and its children get a random key."""
    if not os.environ.get(KEY_ENV):
        os.environ[KEY_ENV] = secrets.token_urlsafe(32)
    return KEY_ENV


def write_key(path: Path) -> Path:
    """Write the key to a file that only its owner can read; returns the file."""
    path.unlink(missing_ok=True)  # a new file has the mode that is asked for
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(os.environ[key_env()])
    return path


def get(url: str, timeout_s: float) -> HTTPResponse:
    """The answer to a GET, which carries no key.

    Raises:
        OSError: no answer, or one that says no.
    """
    return _opened(url, timeout_s)


def post(url: str, body: Mapping[str, Any], timeout_s: float) -> HTTPResponse:
    """The answer to a POST of JSON, with the key.

    Raises:
        OSError: no answer, or one that says no.
    """
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {os.environ[key_env()]}",
    }
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)
    return _opened(request, timeout_s)


def _opened(what: str | urllib.request.Request, timeout_s: float) -> HTTPResponse:
    # The environment's proxies would be given the prompts and the key.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return cast(HTTPResponse, direct.open(what, timeout=timeout_s))
