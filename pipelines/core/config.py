"""Turn a study file, the fragments it names and `--set` into one typed, frozen Study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from pipelines.core.errors import ConfigError
from pipelines.core.paths import ROOT, shown
from pipelines.core.study import Study

Tree = dict[str, Any]
CONFIGS = ROOT / "configs"
MODELS = ("candidates", "judges")
"""Sections whose entries may name a file in configs/candidates/."""


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study.

    Three keys may name a fragment instead of spelling it out: an entry of `candidates` or `judges`
    (configs/candidates/), `finetune.preset` (configs/training/, the study's own keys win) and
    `hardware` of a candidate (configs/hardware/).

    Args:
        path: a YAML file.
        overrides: `dotted.key=value`, the value parsed as YAML; a later one wins.

    Raises:
        ConfigError: lists every problem of the study at once, each with its file and key.
    """
    tree = read_yaml(path)
    for override in overrides:
        _apply(tree, override, path)
    problems: list[str] = []
    origins: dict[str, Path] = {}
    _expand(tree, origins, problems)
    try:
        study = Study.model_validate(tree)
    except ValidationError as error:
        for each in error.errors():
            # The tag of a union ("rent") stands in loc behind the candidate's name: not a key.
            parts = [str(part) for part in each["loc"]]
            if len(parts) > 2 and parts[0] in MODELS and parts[2] in ("rent", "own", "baseline"):
                del parts[2]
            key = ".".join(parts) or "study"
            file = next((f for k, f in origins.items() if (key + ".").startswith(k + ".")), path)
            message = each["msg"].removeprefix("Value error, ")
            got = "" if isinstance(each["input"], dict) else f" (got {each['input']!r})"
            problems.append(f"{shown(file)}: {key}: {message}{got}")
    else:
        if not problems:
            return study.with_controls()
    raise ConfigError(f"{len(problems)} problem(s)\n  " + "\n  ".join(problems))


def read_yaml(path: Path) -> Tree:
    """Read one YAML mapping.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    import yaml  # not above: `--help` has half a second

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml"))) or "no YAML file"
        raise ConfigError(
            f"{shown(path)}: no such file; {shown(path.parent)}/ has {near}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown(path)}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown(path)}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{shown(path)}: expected a mapping of keys, got {type(tree).__name__}")
    return cast(Tree, tree)


def _expand(tree: Tree, origins: dict[str, Path], problems: list[str]) -> None:
    """Replace names of fragments by their content; `origins` remembers key -> file."""
    finetune = tree.get("finetune")
    preset = cast(Tree, finetune).get("preset") if isinstance(finetune, dict) else None
    if isinstance(preset, str) and (
        fragment := _fragment("training", preset, origins, problems, "finetune")
    ):
        tree["finetune"] = _merge(fragment, cast(Tree, finetune))
    for section in MODELS:
        _expand_models(tree, section, origins, problems)


def _expand_models(tree: Tree, section: str, origins: dict[str, Path], problems: list[str]) -> None:
    models = tree.get(section)
    if isinstance(models, list):
        models = {str(name): name for name in cast(list[Any], models)}
    if not isinstance(models, dict):
        return
    named = cast(Tree, models)
    for name, value in list(named.items()):
        key = f"{section}.{name}"
        if isinstance(value, str):
            value = named[name] = _fragment("candidates", value, origins, problems, key)
        if isinstance(value, dict):
            model = cast(Tree, value)
            if isinstance(hardware := model.get("hardware"), str):
                where = f"{key}.hardware"
                model["hardware"] = _fragment("hardware", hardware, origins, problems, where)
    # A fragment that is missing is already reported, with the names that exist.
    tree[section] = {name: value for name, value in named.items() if value is not None}


def _fragment(
    folder: str, name: str, origins: dict[str, Path], problems: list[str], key: str
) -> Tree | None:
    path = CONFIGS / folder / f"{name}.yaml"
    try:
        fragment = read_yaml(path)
    except ConfigError as error:
        problems.append(f"{key}: {error}")
        return None
    origins[key] = path
    return fragment


def _merge(below: Tree, above: Tree) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(cast(Tree, old), cast(Tree, value)) if both else value
    return merged


def _apply(tree: Tree, override: str, path: Path) -> None:
    import yaml

    key, equals, raw = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: {raw!r} is not valid YAML") from None
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if isinstance(child, list):
            child = node[parent] = {str(item): item for item in cast(list[Any], child)}
        if isinstance(child, str) and parents[0] in MODELS and parent == parents[1]:
            child = node[parent] = read_yaml(CONFIGS / "candidates" / f"{child}.yaml")
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent!r} in {shown(path)} is not a section")
        node = cast(Tree, child)
    old = node.get(leaf)
    if isinstance(old, dict) and isinstance(value, dict):
        value = _merge(cast(Tree, old), cast(Tree, value))
    if isinstance(old, dict) and isinstance(value, list):
        # `candidates=[a, b]` chooses among the study's own; another name is a fragment.
        named = cast(Tree, old)
        value = {str(name): named.get(str(name), name) for name in cast(list[Any], value)}
    node[leaf] = value
