"""List the commands."""

import ast
import sys
from pathlib import Path


def main() -> int:
    """Print every command with the first line of its docstring."""
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        sys.stdout.write(f"python -m pipelines.{path.stem:<10} {doc.splitlines()[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
