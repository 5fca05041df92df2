"""A study from a stranger: it runs nothing, fills no memory, leads nowhere and repeats no key."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import metrics
from pipelines.core.config import load_study, read_yaml
from pipelines.core.errors import ConfigError

KEY = "sk-live-0123456789abcdef"


def refused(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {0}']",
        "!!python/object/new:os.system ['touch {0}']",
        "!!python/object/apply:subprocess.check_output [[touch, '{0}']]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1]",
        "!anything {{}}",
    ],
)
def test_a_tag_runs_nothing(tmp_path: Path, tag: str) -> None:
    marker = tmp_path / "ran"
    message = refused(tmp_path / "s.yaml", f"workload: {tag.format(marker)}\n")
    assert "could not determine a constructor for the tag" in message
    assert not marker.exists()


def laughs(levels: int) -> str:
    """Ten to the power of `levels` values, in as many lines."""
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}" for k in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("bomb", [laughs(30), merges(30), "a: &a [*a]\n", "a: &a {b: *a}\n"])
def test_aliases_of_aliases_are_counted_before_they_are_built(tmp_path: Path, bomb: str) -> None:
    assert "more than 100,000 values" in refused(tmp_path / "s.yaml", bomb)


def test_an_alias_is_welcome(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: " + "[" * 600, "nested too deeply"),
        (f"a: {'9' * 5000}", "not valid YAML"),
        ("a: 2026-13-41", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("? [1]\n: 2", "not valid YAML"),
        ("", "expected a mapping of keys, got NoneType"),
    ],
    ids=["depth", "digits", "date", "NUL", "key", "nothing"],
)
def test_what_the_parser_chokes_on_is_one_error(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refused(tmp_path / "s.yaml", text)


def test_an_override_is_no_way_round(small_study: Path, tmp_path: Path) -> None:
    for value in ("!!python/object/apply:os.system ['touch x']", "&a [*a]", "[" * 600):
        with pytest.raises(ConfigError, match="is not valid YAML"):
            load_study(small_study, [f"workload.title={value}"])


@pytest.mark.parametrize(
    "name",
    ["../training/tiny", "../../pyproject", "/etc/passwd", "a/b", "..", "", "a\x00b", "a\n", "~"],
)
def test_a_name_of_a_file_leads_out_of_no_folder(small_study: Path, name: str) -> None:
    text = small_study.read_text()
    for old, new in (
        ("preset: tiny", f"preset: {name!r}"),
        ("tfidf-logreg: tfidf-logreg", f"tfidf-logreg: {name!r}"),
    ):
        small_study.write_text(text.replace(old, new.replace("'", '"')))
        with pytest.raises(ConfigError, match=r"is no file of configs/(training|candidates)/"):
            load_study(small_study)
    small_study.write_text(text.replace("tfidf-logreg: tfidf-logreg", f'"{name!r}": tfidf-logreg'))
    with pytest.raises(ConfigError, match="String should match pattern"):
        load_study(small_study)
    with pytest.raises(ConfigError, match="unknown metric"):
        metrics.FOLDER.load(name)


@pytest.mark.parametrize("name", ["../x", "/etc", "a/../b", "a\x00", "Small", ".hidden", "x" * 61])
def test_a_workload_is_named_like_a_folder_of_its_own(small_study: Path, name: str) -> None:
    quoted = name.replace("\x00", "\\0")
    small_study.write_text(small_study.read_text().replace("name: small", f'name: "{quoted}"'))
    with pytest.raises(ConfigError, match=r"workload\.name: String should"):
        load_study(small_study)


def test_a_fragment_chosen_by_override_stays_in_its_folder(small_study: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no file of configs/candidates/"):
        load_study(small_study, ["candidates.x=../training/tiny", "candidates.x.title=X"])


@pytest.mark.parametrize("key", ["api_key", "api_key_env", "password"])
def test_a_key_in_the_file_is_refused_and_not_repeated(small_study: Path, key: str) -> None:
    text = small_study.read_text().replace(
        "provider: openai", f"{key}: {KEY}\n    provider: openai"
    )
    small_study.write_text(text)
    with pytest.raises(ConfigError, match=rf"candidates\.frontier\.{key}") as caught:
        load_study(small_study)
    assert KEY not in str(caught.value)
