"""Run benchmarks and print a table, or JSON for machines."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

NAMES = ("evaluate", "economics", "finetune", "governance", "prepare", "decide", "token_cache")
ON_GPU = ("finetune",)
"""Those that `--gpu` measures; the module is `NAME_gpu`."""


def main() -> int:
    """Exit code 0 when every bar holds."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--gpu", action="store_true", help=f"on a GPU: {', '.join(ON_GPU)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    known, where = (ON_GPU, " on a GPU") if args.gpu else (NAMES, "")
    if unknown := set(args.names) - set(known):
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}{where}; there are: {', '.join(known)}"
        )
    names = [f"{name}_gpu" if args.gpu else name for name in args.names or known]
    sys.path.insert(0, str(Path(__file__).parent))
    rows: dict[str, list[dict[str, Any]]] = {
        name: importlib.import_module(name).run() for name in names
    }
    named = {f"{name}: {row['name']}": row for name, each in rows.items() for row in each}
    bars = {key: row for key, row in named.items() if "limit" in row}
    if args.json:
        shown = ("value", "limit", "holds")
        print(json.dumps({
            "bars": {key: {k: row[k] for k in shown} for key, row in bars.items()},
            "figures": {key: row["value"] for key, row in named.items()},
        }))  # fmt: skip
    else:
        packages = ", ".join(f"{name} {version(name)}" for name in ("mlflow", "aiohttp"))
        print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
        print(f"{packages}\n")
        for key, row in named.items():
            spread = "" if "spread" not in row else "{:.3g} to {:.3g}".format(*row["spread"])
            bar = f"{row['limit']} {'holds' if row['holds'] else 'MISSED'}" if key in bars else ""
            print(f"{key:<62} {row['value']:>10.4g}  {spread:<16} {bar}")
    return 0 if all(row["holds"] for row in bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
