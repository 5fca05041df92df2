"""Notes that MLflow renders: names in them load no image, lead nowhere and are no HTML."""

from __future__ import annotations

import re

import mlflow
import pytest
from markdown_it import MarkdownIt

from pipelines.tracking import registry, store

HOSTILE = {
    "image": "![x](https://evil.test/?seen)",
    "spaced image": "![x] (https://evil.test/?seen)",
    "spaced link": "[x]  (javascript:alert(1))",
    "titled image": '![x](<https://evil.test/?seen> "t")',
    "image by reference": "![x][y]\n\n[y]: https://evil.test/?seen",
    "link": "[click](javascript:alert(1))",
    "data link": "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "link by reference": "[click][y]\n\n[y]: javascript:alert(1)",
    "short reference": "[y]\n\n[y]: https://evil.test",
    "tag": "<img src=https://evil.test onerror=alert(1)>",
    "escaped tag": "\\<img src=https://evil.test>",
    "twice escaped tag": "\\\\<img src=https://evil.test>",
    "frame": "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "script": "<script>alert(1)</script>",
    "autolink": "<javascript:alert(1)>",
    "comment": "<!-- --!><img src=x>",
}
PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")
"""As lenient as a Markdown renderer can be: HTML and every address go through."""
PARSER.validateLink = lambda url: True


def active(markdown: str) -> list[str]:
    """Tags of the rendered text that do more than format words."""
    # As showdown reads it, which MLflow's UI uses: < cannot be escaped, and a gap does not matter.
    as_showdown = re.sub(r"\][ \t]+\(", "](", re.sub(r"\\+<", "<", markdown))
    tags = r"<(?:img|a|iframe|script|svg|object|style|form|!)[^>]*"
    return re.findall(tags, PARSER.render(as_showdown))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_and_not_obeyed(name: str) -> None:
    for text in (HOSTILE[name], f"## Verdict: OWN\n\n| a |\n| --- |\n| {HOSTILE[name]} |"):
        assert active(store.harmless(text)) == []
    assert active(HOSTILE[name]), "the payload must be real"


def test_formatting_and_figures_stay() -> None:
    note = "## Verdict: OWN\n\n**p95 0.5 s** & `x_y` [chosen], 3 > 2\n\n| a | b |\n| --- | --- |"
    assert store.harmless(note) == note
    assert PARSER.render(store.harmless("loss < 0.1")).strip() == "<p>loss &lt; 0.1</p>"


def test_what_a_terminal_obeys_is_not_in_a_note_either() -> None:
    assert store.harmless("a\x1b[31mb\u202ec\n") == "a\ufffd[31mb\ufffdc\n"


def test_every_note_is_written_so(store_uri: str) -> None:
    payload = HOSTILE["image"]
    stage = store.Stage("decide", "small", {})
    with store.open_run(stage, data_sha256="d", inputs={}, description=payload) as run:
        first = mlflow.get_run(run.run_id).data.tags[store.NOTE_TAG]
        run.describe(f"two {payload}")
        second = mlflow.get_run(run.run_id).data.tags[store.NOTE_TAG]
        model = run.log_candidate("small-own", {}, None)
    store.set_experiment_note("small", payload)
    experiment = mlflow.get_experiment_by_name("small")
    assert experiment is not None
    version = registry.register("small", model, {}, payload)
    described = mlflow.MlflowClient().get_model_version("small", version).description
    notes = [first, second, experiment.tags[store.NOTE_TAG], str(described)]
    assert all("evil.test" in note for note in notes)
    assert [active(note) for note in notes] == [[]] * 4
