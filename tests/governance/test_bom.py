"""Bills of materials: valid against the schema, the same every time, and complete."""

from __future__ import annotations

import copy
import importlib.metadata
import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from pipelines.core.records import Estimate
from pipelines.governance import bom, seal
from pipelines.governance.bom import BaseModel, DataPart, Library, Measure, Model, SpecVersion

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
DIGEST = "ab" * 32
QUALITY = Estimate(mean=0.9125, low=0.88, high=0.9375, n_scored=398, n_total=400)
LIBRARIES = (
    Library(name="aiohttp", version="3.14.1", licence="Apache-2.0 AND MIT", requires=("yarl",)),
    Library(name="torch", version="2.13.0+cpu", licence="BSD-3-Clause", requires=()),
    Library(name="yarl", version="1.2", licence="Our own terms", requires=("absent",)),
)
MODEL = Model(
    name="claims/own-lora",
    title="Ours",
    kind="own",
    tier="confidential",
    evaluate_run_id="e" * 32,
    finetune_run_id="f" * 32,
    adapter_sha256=DIGEST,
    base=BaseModel(
        name="Qwen/Qwen3-8B", on_hub=True, revision="b968", weights_sha256="cd" * 32,
        licence="apache-2.0",
    ),
    architecture="decoder",
    data=(
        DataPart(
            role="training", name="train.jsonl", rows_sha256="12" * 32, n_rows=1000,
            licences={"cc-by-4.0": 900, "openai-terms": 50}, n_without_licence=50,
            personal_data="7 rows with findings, masked",
        ),
        DataPart(role="evaluation", name="eval.jsonl", rows_sha256="34" * 32, n_rows=400),
    ),
    measures=(
        Measure(metric="accuracy", part=None, estimate=QUALITY),
        Measure(metric="accuracy", part="channel=mail", estimate=QUALITY),
    ),
    limits=("3 of 400 answers could not be read",),
    owed=("intended users and uses",),
)  # fmt: skip


def of(document: dict[str, Any], ref: str) -> dict[str, Any]:
    [found] = [each for each in document["components"] if each["bom-ref"] == ref]
    return found


def named(properties: list[dict[str, str]]) -> dict[str, str]:
    return {each["name"].removeprefix("freehold:"): each["value"] for each in properties}


@pytest.mark.parametrize("version", get_args(SpecVersion))
def test_both_versions_are_valid_and_nonsense_is_refused(version: SpecVersion) -> None:
    document = bom.model_bom(MODEL, LIBRARIES, AT, version)
    assert document["specVersion"] == version
    bom.check(document)
    bom.check(bom.software_bom(LIBRARIES, AT, version))
    wrong = copy.deepcopy(document)
    parameters = wrong["metadata"]["component"]["modelCard"]["modelParameters"]
    parameters["approach"]["type"] = "magic"
    with pytest.raises(ValueError, match=f"no valid CycloneDX {version}.*magic"):
        bom.check(wrong)
    more = {**document, "verdict": "own"}
    with pytest.raises(ValueError, match="no valid CycloneDX"):
        bom.check(more)


def test_the_model_is_named_by_its_weights_and_its_card_holds_what_was_measured() -> None:
    document = bom.model_bom(MODEL, LIBRARIES, AT)
    model = document["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": DIGEST}]
    assert model["version"] == "abababababab"
    assert named(model["properties"])["finetune-run"] == "f" * 32
    card = model["modelCard"]
    assert card["modelParameters"]["approach"] == {"type": "supervised"}
    assert card["modelParameters"]["datasets"] == [
        {"ref": "data-training"},
        {"ref": "data-evaluation"},
    ]
    whole, part = card["quantitativeAnalysis"]["performanceMetrics"]
    assert whole == {
        "type": "accuracy",
        "value": "0.9125",
        "slice": "all items (398 of 400 scored)",
        "confidenceInterval": {"lowerBound": "0.8800", "upperBound": "0.9375"},
    }
    assert part["slice"] == "channel=mail (398 of 400 scored)"
    assert card["considerations"] == {"technicalLimitations": list(MODEL.limits)}
    assert named(card["properties"]) == {"owed-by-a-person": "intended users and uses"}


def test_base_and_data_carry_digest_licence_and_tier() -> None:
    document = bom.model_bom(MODEL, LIBRARIES, AT)
    base = of(document, "base-model")
    assert base["purl"] == "pkg:huggingface/Qwen/Qwen3-8B@b968"
    assert base["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert named(base["properties"]) == {"weights-sha256": "cd" * 32}
    train = of(document, "data-training")
    assert train["hashes"] == [{"alg": "SHA-256", "content": "12" * 32}]
    assert train["licenses"] == [
        {"license": {"id": "CC-BY-4.0"}},
        {"license": {"name": "openai-terms"}},
    ]
    [data] = train["data"]
    assert data["classification"] == "confidential"
    facts = named(data["contents"]["properties"])
    assert facts["rows-without-licence"] == "50"
    assert facts["personal-data"] == "7 rows with findings, masked"
    items = named(of(document, "data-evaluation")["data"][0]["contents"]["properties"])
    assert items["personal-data"] == "not searched for"
    assert "rows-without-licence" not in items
    unknown = MODEL.model_copy(update={"base": BaseModel(
        name="b", on_hub=False, revision=None, weights_sha256=None, licence=None)})  # fmt: skip
    silent = of(bom.model_bom(unknown, LIBRARIES, AT), "base-model")
    assert "licenses" not in silent
    assert "purl" not in silent
    assert named(silent["properties"]) == {"licence": "not stated"}


def test_libraries_have_purls_and_edges() -> None:
    document = bom.software_bom(LIBRARIES, AT)
    torch = of(document, "pkg:pypi/torch@2.13.0%2Bcpu")
    assert torch["purl"] == torch["bom-ref"]
    assert of(document, "pkg:pypi/aiohttp@3.14.1")["licenses"] == [
        {"expression": "Apache-2.0 AND MIT"}
    ]
    assert of(document, "pkg:pypi/yarl@1.2")["licenses"] == [{"license": {"name": "Our own terms"}}]
    edges = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    assert edges["pkg:pypi/aiohttp@3.14.1"] == ["pkg:pypi/yarl@1.2"]
    assert edges["pkg:pypi/yarl@1.2"] == [], "what is not installed is no component"
    assert len(edges["freehold"]) == 3


def test_the_same_content_gives_the_same_bytes_and_number() -> None:
    first, again = (bom.model_bom(MODEL, LIBRARIES, AT) for _ in range(2))
    assert bom.text(first) == bom.text(again)
    later = bom.model_bom(MODEL, LIBRARIES, AT.replace(hour=13))
    assert later["metadata"]["timestamp"] == "2026-11-22T13:00:00Z"
    assert later["serialNumber"] == first["serialNumber"]
    assert bom.sha256_of(later) != bom.sha256_of(first)
    other = MODEL.model_copy(update={"adapter_sha256": "ba" * 32})
    assert bom.model_bom(other, LIBRARIES, AT)["serialNumber"] != first["serialNumber"]


def test_this_environment_is_listed_and_valid() -> None:
    found = {each.name: each for each in bom.installed()}
    assert found["pydantic"].version == importlib.metadata.version("pydantic")
    assert "pydantic-core" in found["pydantic"].requires
    assert "pytest" not in found["pydantic"].requires
    assert found["cyclonedx-python-lib"].licence == "Apache-2.0"
    document = bom.software_bom(tuple(found.values()), AT)
    bom.check(document)
    assert len(document["components"]) == len(found) - ("freehold" in found)
    assert json.loads(bom.text(document)) == document


def test_a_hostile_name_stays_a_name() -> None:
    hostile = '"}],"components":[]\x00<script>\u202e'
    model = MODEL.model_copy(update={"name": hostile, "limits": (hostile,)})
    document = bom.model_bom(model, LIBRARIES, AT)
    bom.check(document)
    assert json.loads(bom.text(document))["metadata"]["component"]["name"] == hostile
    assert seal.sha256_of(bom.text(document).encode()) == bom.sha256_of(document)
