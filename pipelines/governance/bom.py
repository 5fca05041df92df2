"""Bills of materials in CycloneDX: the installed software, and what a model is made of."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageMetadata
from typing import Any, Literal
from uuid import UUID

import pipelines
from pipelines.core.errors import UserError
from pipelines.core.records import Estimate, Record
from pipelines.core.results import Kind
from pipelines.core.workload import Tier
from pipelines.governance import seal

Bom = dict[str, Any]
"""A CycloneDX document as JSON."""
SpecVersion = Literal["1.6", "1.7"]
SPEC_VERSIONS: tuple[SpecVersion, ...] = ("1.6", "1.7")

PREDICATE_TYPE = "https://cyclonedx.org/bom"
MODEL_REF, BASE_REF, PROGRAM_REF = "model", "base-model", "freehold"
PREFIX = "freehold:"
"""Names of our properties begin with it."""
DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_LICENCE = 80
"""Characters of a licence's name; some packages state the whole text there."""


class Library(Record):
    """One installed distribution."""

    name: str
    """As the index normalises it: lower case, hyphens."""
    version: str
    licence: str | None
    """As it states it; None = it states none."""
    requires: tuple[str, ...]
    """Normalised names of what it needs and finds installed."""

    @property
    def purl(self) -> str:
        """Its package URL."""
        from packageurl import PackageURL

        return PackageURL("pypi", None, self.name, self.version).to_string()


class BaseModel(Record):
    """The open weights under an adapter."""

    name: str
    """On the hub, or of its folder or preset."""
    on_hub: bool
    revision: str | None
    weights_sha256: str | None
    """Over the names and contents of its files, so not the digest of one file."""
    licence: str | None
    toy: bool = False


class DataPart(Record):
    """One split of rows."""

    role: Literal["training", "validation", "evaluation"]
    name: str
    """Where the rows come from."""
    rows_sha256: str
    """Of the file of rows in the run that prepared them."""
    n_rows: int
    licences: dict[str, int] = {}
    """Licence or terms -> rows read; a row may stand under two."""
    n_without_licence: int | None = None
    """None = nobody looked, as for eval sets."""
    personal_data: str | None = None
    """What a search found, in words; None = nobody looked."""


class Measure(Record):
    """One metric on all items or on a part of them."""

    metric: str
    part: str | None
    """Name of a slice; None = all items."""
    estimate: Estimate


class Model(Record):
    """What is known of a model; all of it measured or configured, nothing assumed."""

    name: str
    title: str
    kind: Kind
    tier: Tier
    evaluate_run_id: str
    finetune_run_id: str | None
    adapter_sha256: str | None
    """Of the adapter's weights; None = nothing was trained."""
    base: BaseModel | None
    architecture: str | None
    data: tuple[DataPart, ...]
    measures: tuple[Measure, ...]
    limits: tuple[str, ...]
    """What was measured or is plain from the run, in words."""
    owed: tuple[str, ...]
    """Parts of the card that only a person can fill."""

    @property
    def version(self) -> str:
        """What tells it from others of its name: the digest of its weights, else the run."""
        return (self.adapter_sha256 or self.evaluate_run_id)[:12]


def installed() -> tuple[Library, ...]:
    """The distributions of this environment, by name."""
    from packaging.requirements import InvalidRequirement, Requirement

    found: dict[str, tuple[PackageMetadata, set[str]]] = {}
    for each in importlib.metadata.distributions():
        about = each.metadata  # parsed anew at each look
        name = about["Name"]
        if not name or normalised(name) in found:
            continue  # the first on the path is the one that is imported
        needs: set[str] = set()
        for line in about.get_all("Requires-Dist") or ():
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needs.add(normalised(requirement.name))
        found[normalised(name)] = about, needs
    return tuple(
        Library(
            name=name,
            version=about["Version"],
            licence=_stated_licence(about),
            requires=tuple(sorted(needs & found.keys() - {name})),
        )
        for name, (about, needs) in sorted(found.items())
    )


def software_bom(
    libraries: Sequence[Library], at: datetime, spec_version: SpecVersion = "1.6"
) -> Bom:
    """The software alone.

    Args:
        libraries: from `installed`.
        at: when it was looked at.
        spec_version: of CycloneDX.
    """
    program = {
        "type": "application",
        "bom-ref": PROGRAM_REF,
        "name": "freehold",
        "version": pipelines.__version__,
    }
    mine = [each for each in libraries if each.name != "freehold"]
    refs = [each.purl for each in mine]
    depends = [{"ref": PROGRAM_REF, "dependsOn": sorted(refs)}, *_edges(mine)]
    return _closed(program, [_library(each) for each in mine], depends, at, spec_version)


def model_bom(
    model: Model, libraries: Sequence[Library], at: datetime, spec_version: SpecVersion = "1.6"
) -> Bom:
    """A model with its base, its data, its measured quality, and the software around it.

    Equal inputs give equal bytes; `serialNumber` follows from all but the time.

    Args:
        model: what is known of it.
        libraries: from `installed`.
        at: when the bill is written.
        spec_version: of CycloneDX.
    """
    mine = [each for each in libraries if each.name != "freehold"]
    parts = [_data(each, model) for each in model.data]
    base = [_base(model.base)] if model.base else []
    refs = [each["bom-ref"] for each in (*base, *parts)]
    depends = [
        {"ref": MODEL_REF, "dependsOn": [*refs, *sorted(each.purl for each in mine)]},
        *({"ref": ref, "dependsOn": []} for ref in refs),
        *_edges(mine),
    ]
    components = [*base, *parts, *(_library(each) for each in mine)]
    return _closed(_model(model), components, depends, at, spec_version)


def check(bom: Bom) -> None:
    """Validate strictly against the schema of its version; needs no network.

    Raises:
        ValueError: it does not conform; says where.
        UserError: the validator is not installed.
    """
    try:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError:
        raise UserError(
            "bills of materials need cyclonedx-python-lib[json-validation]: run scripts/setup"
        ) from None
    version = SchemaVersion.from_version(str(bom["specVersion"]))
    if error := JsonStrictValidator(version).validate_str(text(bom)):
        raise ValueError(f"no valid CycloneDX {bom['specVersion']}: {str(error)[:500]}")


def text(bom: Bom) -> str:
    """The document as it is written and signed."""
    return json.dumps(bom, indent=1, allow_nan=False) + "\n"


def sha256_of(bom: Bom) -> str:
    """Digest of `text`."""
    return seal.sha256_of(text(bom).encode())


def normalised(name: str) -> str:
    """A distribution's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def stamp(at: datetime) -> str:
    """A time as CycloneDX wants it, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def numbered(bom: Bom) -> Bom:
    """The document with a serial number that follows from its content, the time left out."""
    timeless = {**bom, "metadata": {**bom["metadata"], "timestamp": None}}
    digest = hashlib.sha256(json.dumps(timeless, sort_keys=True, allow_nan=False).encode())
    return {**bom, "serialNumber": UUID(bytes=digest.digest()[:16], version=5).urn}


def properties(**values: object) -> list[dict[str, str]]:
    """Our own name-value pairs; None is left out."""
    return [
        {"name": PREFIX + name.replace("_", "-"), "value": str(value)}
        for name, value in values.items()
        if value is not None
    ]


def _closed(
    subject: dict[str, Any],
    components: list[dict[str, Any]],
    dependencies: list[dict[str, Any]],
    at: datetime,
    spec_version: SpecVersion,
) -> Bom:
    tool = {"type": "application", "name": "freehold", "version": pipelines.__version__}
    return numbered(
        {
            "$schema": f"http://cyclonedx.org/schema/bom-{spec_version}.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": spec_version,
            "version": 1,
            "metadata": {
                "timestamp": stamp(at),
                "tools": {"components": [tool]},
                "component": subject,
            },
            "components": components,
            "dependencies": dependencies,
        }
    )


def _model(model: Model) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL_REF,
        "name": model.name,
        "version": model.version,
        "description": model.title,
        **_hashes(model.adapter_sha256),
        "modelCard": _card(model),
        "properties": properties(
            kind=model.kind,
            tier=model.tier,
            evaluate_run=model.evaluate_run_id,
            finetune_run=model.finetune_run_id,
        ),
    }


def _card(model: Model) -> dict[str, Any]:
    """The model card; what only a person knows is left out and listed as owed."""
    parameters: dict[str, Any] = {"task": "text-generation"}
    if model.adapter_sha256 is not None:
        parameters["approach"] = {"type": "supervised"}
    if model.architecture:
        parameters["modelArchitecture"] = model.architecture
    parameters["datasets"] = [{"ref": _data_ref(each)} for each in model.data]
    parameters |= {"inputs": [{"format": "text"}], "outputs": [{"format": "text"}]}
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": [_measure(m) for m in model.measures]},
        "considerations": {"technicalLimitations": list(model.limits)},
        "properties": [prop for each in model.owed for prop in properties(owed_by_a_person=each)],
    }


def _measure(it: Measure) -> dict[str, Any]:
    estimate = it.estimate
    return {
        "type": it.metric,
        "value": f"{estimate.mean:.4f}",
        "slice": f"{it.part or 'all items'} ({estimate.n_scored} of {estimate.n_total} scored)",
        "confidenceInterval": {
            "lowerBound": f"{estimate.low:.4f}",
            "upperBound": f"{estimate.high:.4f}",
        },
    }


def _base(base: BaseModel) -> dict[str, Any]:
    from packageurl import PackageURL

    purl = {}
    if base.on_hub:
        owner, _, name = base.name.rpartition("/")
        purl["purl"] = PackageURL("huggingface", owner, name, base.revision).to_string()
    return {
        "type": "machine-learning-model",
        "bom-ref": BASE_REF,
        "name": base.name,
        **({"version": base.revision} if base.revision else {}),
        **_licences([base.licence] if base.licence else []),
        **purl,
        "properties": properties(
            weights_sha256=base.weights_sha256,
            licence="not stated" if base.licence is None else None,
            toy="true" if base.toy else None,
        ),
    }


def _data(part: DataPart, model: Model) -> dict[str, Any]:
    found = properties(
        role=part.role,
        rows=part.n_rows,
        tier=model.tier,
        rows_without_licence=part.n_without_licence,
        personal_data=part.personal_data or "not searched for",
    )
    found += [
        prop for name, n in part.licences.items() for prop in properties(rows_under=f"{name}: {n}")
    ]
    return {
        "type": "data",
        "bom-ref": _data_ref(part),
        "name": part.name,
        "version": part.rows_sha256[:12],
        **_hashes(part.rows_sha256),
        **_licences(sorted(part.licences)),
        "data": [
            {
                "type": "dataset",
                "name": part.name,
                "classification": model.tier,
                "contents": {"properties": found},
            }
        ],
    }


def _data_ref(part: DataPart) -> str:
    return f"data-{part.role}"


def _library(it: Library) -> dict[str, Any]:
    purl = it.purl
    return {
        "type": "library",
        "bom-ref": purl,
        "name": it.name,
        "version": it.version,
        **_licences([it.licence] if it.licence else []),
        "purl": purl,
    }


def _edges(libraries: Sequence[Library]) -> list[dict[str, Any]]:
    purls = {each.name: each.purl for each in libraries}
    return [
        {"ref": each.purl, "dependsOn": [purls[name] for name in each.requires if name in purls]}
        for each in libraries
    ]


def _hashes(sha256: str | None) -> dict[str, Any]:
    if sha256 is None or not DIGEST.fullmatch(sha256):
        return {}
    return {"hashes": [{"alg": "SHA-256", "content": sha256}]}


def _licences(names: Sequence[str]) -> dict[str, Any]:
    """By SPDX id where there is one; one expression stands alone, as the schema demands."""
    from cyclonedx import spdx

    if len(names) == 1 and spdx.fixup_id(names[0]) is None and spdx.is_expression(names[0]):
        return {"licenses": [{"expression": names[0]}]}
    found = [
        {"license": {"id": known} if (known := spdx.fixup_id(each)) else {"name": each}}
        for each in names
    ]
    return {"licenses": found} if found else {}


def _stated_licence(of: PackageMetadata) -> str | None:
    said = [
        *(of.get_all("License-Expression") or ()),
        *(of.get_all("License") or ()),
    ]
    line = next((each.strip().splitlines()[0].strip() for each in said if each.strip()), "")
    if line and line != "UNKNOWN" and len(line) <= MAX_LICENCE:
        return line
    kinds = [
        each.rpartition(" :: ")[2]
        for each in of.get_all("Classifier") or ()
        if each.startswith("License :: ") and each.count(" :: ") > 1
    ]
    return kinds[0] if kinds else None
