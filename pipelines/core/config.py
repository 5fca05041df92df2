"""Turn a study file, the fragments it names and `--set` into one typed, frozen Study."""

from __future__ import annotations

import re
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
ORIGINS = ("build", "hub", "path")
"""Where a base model can come from."""
MAX_NODES = 100_000
"""Of a YAML document, what its aliases repeat included; a study has some hundred."""


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
            # What an API key was written to, by mistake, is not repeated.
            secret = each["type"] == "extra_forbidden" or "api_key" in key
            told = not secret and not isinstance(each["input"], dict)
            got = f" (got {each['input']!r})" if told else ""
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
    try:
        tree = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml"))) or "no YAML file"
        raise ConfigError(
            f"{shown(path)}: no such file; {shown(path.parent)}/ has {near}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown(path)}: cannot be read: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{shown(path)}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{shown(path)}: expected a mapping of keys, got {type(tree).__name__}")
    return cast(Tree, tree)


def _parsed(text: str) -> object:
    """The value of a YAML document.

    Raises:
        ValueError: not YAML, a tag that is no plain data, or larger than `MAX_NODES`.
    """
    import yaml  # not above: `--help` has half a second

    safe: Any = yaml.SafeLoader
    try:
        root = safe(text).get_single_node()
        # Before anything is built: aliases of aliases would fill the memory.
        nodes, n_seen = [root], 1
        while nodes:
            node = nodes.pop()
            inside: list[Any] = []
            if isinstance(node, yaml.MappingNode):
                inside = [each for pair in node.value for each in pair]
            elif isinstance(node, yaml.SequenceNode):
                inside = node.value
            n_seen += len(inside)
            if n_seen > MAX_NODES:
                raise ValueError(f"more than {MAX_NODES:,} values, aliases included")
            nodes += inside
        return None if root is None else safe("").construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


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
    try:
        path = _fragment_path(folder, name)
        fragment = read_yaml(path)
    except ConfigError as error:
        problems.append(f"{key}: {error}")
        return None
    origins[key] = path
    return fragment


def _fragment_path(folder: str, name: str) -> Path:
    """File of a fragment.

    Raises:
        ConfigError: the name could lead out of the folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise ConfigError(
            f"{name!r} is no file of configs/{folder}/; letters, digits, dots, dashes and "
            "underscores make its name"
        )
    return CONFIGS / folder / f"{name}.yaml"


def _merge(below: Tree, above: Tree) -> Tree:
    """Both, `above` winning; a base model from elsewhere leaves nothing of the one below it."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        if both and not (key == "base" and _is_elsewhere(cast(Tree, old), cast(Tree, value))):
            value = _merge(cast(Tree, old), cast(Tree, value))
        merged[key] = value
    return merged


def _is_elsewhere(below: Tree, above: Tree) -> bool:
    """Whether one base model replaces another, of which neither revision nor licence would hold."""
    old, new = (
        {origin: base[origin] for origin in ORIGINS if base.get(origin) is not None}
        for base in (below, above)
    )
    return bool(old and new and old != new)


def _apply(tree: Tree, override: str, path: Path) -> None:
    key, equals, raw = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = _parsed(raw)
    except ValueError:
        raise ConfigError(f"--set {override}: {raw!r} is not valid YAML") from None
    *parents, leaf = key.split(".")
    if parents == ["finetune", "base"]:
        parents, leaf, value = ["finetune"], "base", {leaf: value}
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if isinstance(child, list):
            child = node[parent] = {str(item): item for item in cast(list[Any], child)}
        if isinstance(child, str) and parents[0] in MODELS and parent == parents[1]:
            child = node[parent] = read_yaml(_fragment_path("candidates", child))
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent!r} in {shown(path)} is not a section")
        node = cast(Tree, child)
    old = node.get(leaf)
    if isinstance(old, dict) and isinstance(value, dict):
        value = _merge({leaf: old}, {leaf: value})[leaf]
    if isinstance(old, dict) and isinstance(value, list):
        # `candidates=[a, b]` chooses among the study's own; another name is a fragment.
        named = cast(Tree, old)
        value = {str(name): named.get(str(name), name) for name in cast(list[Any], value)}
    node[leaf] = value
