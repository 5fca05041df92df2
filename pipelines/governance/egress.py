"""The gate: the only way to a model, a judge, an embedder or a tracking server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from pipelines.core import offline
from pipelines.core.errors import Refused
from pipelines.core.paths import MLRUNS
from pipelines.core.workload import Workload
from pipelines.governance import policy
from pipelines.governance.policy import Policy
from pipelines.governance.zones import (
    FORM,
    PORTS,
    ZONES,
    Origin,
    Zone,
    look_up,
    look_up_async,
    origin_of,
    zone_of,
)

if TYPE_CHECKING:
    from pipelines.governance.consent import Given, OnFile
    from pipelines.governance.trail import Trail

Note = Callable[[str, Mapping[str, Any]], None]
"""Appends one line to the audit trail: its kind and its fields."""
Consents = Callable[[str, str, Zone, str], "OnFile"]
"""What is on file for a workload, tier and zone, signed by whoever has a role."""
KIND = "egress"
TRAIL = "FREEHOLD_TRAIL"
"""Environment variable that names the file of the audit trail."""
LOCAL_STORES = ("", "file", "sqlite")
"""Schemes of tracking URIs that are files of this machine."""
HOSTED_STORES = ("databricks", "uc")
"""Tracking URIs that look like one."""


def _no_note(_kind: str, _fields: Mapping[str, Any]) -> None:
    return None


def _consents(workload: str, tier: str, zone: Zone, role: str) -> OnFile:
    from pipelines.governance import consent  # cryptography takes its time to import

    return consent.on_file(workload, tier, zone, role)


class Gate:
    """Says for one workload which calls may leave, and notes those that do."""

    def __init__(
        self,
        workload: str,
        tier: str | None,
        *,
        table: Policy | None = None,
        consents: Consents | None = None,
        note: Note = _no_note,
    ) -> None:
        """Decides nothing yet.

        Args:
            workload: whose data it is.
            tier: of the data.
            table: None = configs/policies/egress.yaml.
            consents: asked where the table demands an approval, once for each zone; None = none
                are on file.
            note: of the audit trail. Where it raises, the call is not made.
        """
        self.workload, self.tier = workload, tier
        self._policy = table or policy.shipped()
        self._consents, self._note = consents, note
        self._cells: dict[Zone, str] = {}
        self._on_file: dict[Zone, OnFile] = {}
        self._refusals: dict[Zone, str | None] = {}

    def why_not(self, zone: Zone) -> str | None:
        """Why nothing of this workload may go to `zone`; None when it may.

        Kept for the gate's life, for it is asked before every call.
        """
        if zone == "external" and offline.is_on():
            return f"--offline ({offline.SWITCH}) forbids every external endpoint. Leave it out"
        if zone not in self._refusals:
            self._refusals[zone] = self._decided(zone)
        return self._refusals[zone]

    def _decided(self, zone: Zone) -> str | None:
        action, cell = self._policy.decide(self.tier, zone)
        self._cells[zone] = cell
        if action == "allow":
            return None
        if action == "require_approval":
            return self._unapproved(cell, zone)
        allowed = [z for z in ZONES if self._policy.table.cell(self.tier, z) == "allow"]
        where = f"take a model that is {' or '.join(allowed)}" if allowed else "correct the tier"
        return f"{cell}. Leave it out, or {where}"

    def _unapproved(self, cell: str, zone: Zone) -> str | None:
        role = self._policy.table.consent
        if role is None:
            return f"{cell}, but nobody may consent: name a role for `consent` there"
        others = ""
        if self._consents is not None:
            found = self._consents(self.workload, str(self.tier), zone, role)
            if found.given:
                self._on_file[zone] = found
                return None
            others = "".join(f"; does not count: {why}" for why in found.not_counted)
        return (
            f"{cell}. It needs the consent of {role} for workload {self.workload}, tier "
            f"{self.tier}, zone {zone}, and none is on file: have it signed (scripts/consent), or "
            f"take another endpoint{others}"
        )

    def _consent(self, origin: Origin, zone: Zone | None) -> Given | None:
        """The consent that a call rests on; None = on none."""
        found = self._on_file.get(zone) if zone else None
        return found.covering(origin.host, datetime.now(UTC).date()) if found else None

    def demand(self, who: str, origin: Origin, zone: Zone) -> None:
        """Let a call pass.

        Args:
            who: the candidate, judge or embedder, in words.
            origin: where it is.
            zone: as looked up.

        Raises:
            Refused: it may not.
        """
        reason = self.why_not(zone)
        if reason is None and (found := self._on_file.get(zone)) is not None:
            reason = found.why_not(origin.host, datetime.now(UTC).date())
        if reason is None:
            if zone != "external" or origin.scheme == "https":
                return
            reason = f"an external endpoint needs https; write it as {FORM}"
        about = f"the data of workload {self.workload} is {self.tier}"
        self.refuse(who, origin, zone, f"{origin.host} is {zone}, and {about}: {reason}")

    def refuse(self, who: str, origin: Origin, zone: Zone | None, reason: str) -> NoReturn:
        """Note a refusal and raise it.

        Raises:
            Refused: always.
        """
        self.note(who, origin, zone, allowed=False)
        raise Refused(f"{who}: {reason}")

    def note(self, who: str, origin: Origin, zone: Zone | None, **more: Any) -> None:
        """Write a line to the audit trail: digests, no content."""
        consent = self._consent(origin, zone)
        fields = {
            "who": who,
            "host": origin.host,
            "port": origin.port,
            "zone": zone,
            "workload": self.workload,
            "tier": self.tier,
            "rule": self._cells.get(zone) if zone else None,
            "policy_sha256": self._policy.sha256,
            "offline": offline.is_on(),
            **({"consent_sha256": consent.sha256} if consent else {}),
        }
        self._note(KIND, {**fields, **more})


def gate_of(workload: Workload) -> Gate:
    """The gate of a study's data; it reads the consents on file and writes to the audit trail."""

    def note(kind: str, fields: Mapping[str, Any]) -> None:
        _trail(trail_path()).append(kind, **fields)

    return Gate(workload.name, workload.tier, consents=_consents, note=note)


def trail_path() -> Path:
    """Where calls are noted: `$FREEHOLD_TRAIL`, else mlruns/trail.jsonl."""
    return Path(os.environ.get(TRAIL) or MLRUNS / "trail.jsonl")


@cache
def _trail(path: Path) -> Trail:
    from pipelines.governance.trail import Trail

    return Trail(path)


def check(gate: Gate, who: str, url: str, *, public: bool = False) -> None:
    """Whether `who` may be called at `url`, before anything is sent there.

    Args:
        gate: of the workload.
        who: the candidate, judge or embedder, in words.
        url: where it is.
        public: it is a provider's public address; such a name is not even looked up.

    Raises:
        Refused: it may not.
    """
    origin = _origin(who, url)
    try:
        zone = "external" if public else look_up(origin)
    except Refused as error:
        gate.refuse(who, origin, None, str(error))
    except OSError:
        # A name without an address cannot be told from a stranger's; where strangers are allowed,
        # the call itself will say what is wrong with it.
        if gate.why_not("external") is None:
            return
        zone = "external"
    gate.demand(who, origin, zone)


def _origin(who: str, url: str) -> Origin:
    try:
        return origin_of(url)
    except Refused as error:
        raise Refused(f"{who}: {error}") from None


def check_all(checks: Sequence[Callable[[], None]]) -> None:
    """Run all checks.

    Raises:
        Refused: with the reasons of all that refuse.
    """
    reasons: list[str] = []
    for each in checks:
        try:
            each()
        except Refused as error:
            reasons.append(str(error))
    if reasons:
        raise Refused("nothing was sent\n  " + "\n  ".join(reasons))


class Client:
    """Speaks HTTP to one endpoint, in the zone that was checked; made by `open_client`."""

    def __init__(
        self,
        gate: Gate,
        who: str,
        origin: Origin,
        connector: Mapping[str, Any],
        traces: Sequence[aiohttp.TraceConfig],
    ) -> None:
        """`connector`: further arguments of `aiohttp.TCPConnector`."""
        self._gate, self._who, self._origin = gate, who, origin
        self._zone: Zone | None = None
        self._outside: str | None = None
        self._n_local = 0
        # trust_env would let the environment's proxies and .netrc have a say.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=self._socket, **connector),
            trace_configs=list(traces),
            trust_env=False,
        )

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket for one address: checked here, where no name can change its mind any more."""
        family, kind, protocol, _, where = address
        if self._zone is None or zone_of(str(where[0])) != self._zone:
            self._outside = str(where[0])
            # An OSError, which aiohttp takes for a failed connection; `post` refuses then.
            raise PermissionError(f"{where[0]} is not {self._zone}")
        return socket.socket(family, kind, protocol)

    async def look_up(self) -> Zone:
        """The endpoint's zone; the first answer counts for the life of the client.

        Raises:
            Refused: the policy says no, or nothing is ever sent there.
            ConnectionError: the name has no address.
        """
        if self._zone is None:
            try:
                zone = await look_up_async(self._origin)
            except Refused as error:
                self._gate.refuse(self._who, self._origin, None, str(error))
            except OSError as error:
                raise ConnectionError(f"{self._origin.host}: {error.strerror or error}") from None
            self._gate.demand(self._who, self._origin, zone)
            self._zone = self._zone or zone
        return self._zone

    @asynccontextmanager
    async def post(
        self, url: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """POST `body` as JSON; redirects are answers like any other and never followed.

        Args:
            url: of this client's endpoint.
            body: what is sent.
            headers: with the key.
            timeout_s: until the answer is whole.

        Raises:
            Refused: another endpoint, or one that has moved to another zone.
            aiohttp.ClientError, ConnectionError, TimeoutError: no answer came.
        """
        target = URL(url)
        if (target.scheme, target.host, target.port) != self._origin:
            raise Refused(f"{self._who}: {target.host} is not {self._origin.host}")
        async with asyncio.timeout(timeout_s):
            zone = await self.look_up()
        self._gate.demand(self._who, self._origin, zone)
        data = json.dumps(body).encode()
        if zone == "local":
            self._n_local += 1
        else:
            digest = hashlib.sha256(data).hexdigest()
            self._gate.note(self._who, self._origin, zone, allowed=True, request_sha256=digest)
        try:
            async with self._session.post(
                target,
                data=data,
                headers={"Content-Type": "application/json", **headers},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as answer:
                yield answer
        except aiohttp.ClientConnectorError:
            if self._outside is None:
                raise
            self._gate.refuse(
                self._who, self._origin, zone_of(self._outside),
                f"{self._origin.host} was {zone} and now leads to {self._outside}, which is not",
            )  # fmt: skip

    async def close(self) -> None:
        """Close all connections; calls on this machine are noted here, together."""
        await self._session.close()
        if self._n_local:
            self._gate.note(self._who, self._origin, "local", allowed=True, n_calls=self._n_local)


@asynccontextmanager
async def open_client(
    gate: Gate,
    who: str,
    url: str,
    *,
    traces: Sequence[aiohttp.TraceConfig] = (),
    **connector: Any,
) -> AsyncGenerator[Client]:
    """A client for the endpoint of `url`, if the gate lets it pass.

    Args:
        gate: of the workload.
        who: the candidate, judge or embedder, in words.
        url: any address of the endpoint.
        traces: of the requests.
        connector: such as `limit`, the most open connections.

    Raises:
        Refused: it may not be called; also in place of the group that tasks raise it in.
    """
    client = Client(gate, who, _origin(who, url), connector, traces)
    try:
        with contextlib.suppress(ConnectionError):  # each call tries again, and says so
            await client.look_up()
        yield client
    except BaseExceptionGroup as group:
        if (refused := _first(group)) is not None:
            raise refused from None
        raise
    finally:
        await client.close()


def _first(group: BaseExceptionGroup[BaseException]) -> Refused | None:
    for error in group.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, Refused):
            return found
    return None


def check_tracking(uri: str, gate: Gate | None) -> None:
    """Whether a study's rows and traces may be written to a tracking store.

    Args:
        uri: MLflow's: a file, a database or a server.
        gate: of the workload; None = no study's data goes there, and only `--offline` counts.

    Raises:
        Refused: it is a server to which the data must not go.
    """
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] in LOCAL_STORES and uri not in HOSTED_STORES:
        return
    who = "the tracking server"
    gate = gate or Gate("(none)", "public")
    if parts.hostname is None:
        gate.demand(who, Origin("https", parts.scheme or uri, PORTS["https"]), "external")
    elif parts.scheme in PORTS:
        # A password in the URI is MLflow's own way to log in.
        check(gate, who, parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    else:  # a database has its own way to encrypt
        check(gate, who, f"https://{parts.netloc.rpartition('@')[2]}")


def check_artifacts(uri: str, gate: Gate | None) -> None:
    """Whether a study's files may be written to the artifact store that a tracking store names.

    Args:
        uri: MLflow's: a folder, a server or an object store such as `s3://bucket/path`.
        gate: of the workload; None = no study's data goes there, and only `--offline` counts.

    Raises:
        Refused: the data must not go there.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("", "file", "mlflow-artifacts"):
        return
    who = "the artifact store"
    gate = gate or Gate("(none)", "public")
    if parts.scheme == "s3" and (ours := os.environ.get("MLFLOW_S3_ENDPOINT_URL")):
        check(gate, who, ours)
    elif parts.scheme in PORTS:
        check(gate, who, parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    else:
        host = parts.netloc.rpartition("@")[2] or parts.scheme
        gate.demand(who, Origin("https", host, PORTS["https"]), "external")
