"""A W&B server on the loopback interface, for the real client and the real `wandb agent`.

It speaks as much GraphQL, file stream and storage as they need (seen with wandb 0.31) and keeps
what they send. An answer holds more fields than were asked for; clients skip these.
"""

import base64
import gzip
import json
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import yaml

KEY = "0123456789" * 4  # of the form that the client asks for
ENTITY = "tester"


@dataclass
class Run:
    """What has arrived of one run."""

    id: str
    project: str = "uncategorized"
    name: str = ""
    sweep: str | None = None
    config: dict[str, Any] = field(default_factory=dict)  # values only, without W&B's own
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)  # metric -> what it is drawn over
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)  # names of artifacts that it took
    starts: int = 0  # how many processes began or resumed it
    exit_code: int | None = None  # None: it has not ended


class WandbServer:
    """Serve in a thread until the block ends.

    Attributes:
        runs: All runs by their ids.
        sweeps: Contents of sweep files by the ids of the sweeps.
        reports: What was sent of each report, its content read as JSON.
        commands: What agents are told, one at a heartbeat while they run nothing; then to exit.
        heartbeats: For each heartbeat of an agent, whether each of its runs is alive.
        stopped: Ids of runs that are to stop, as by the button on the page or by early termination.
        on_heartbeat: Called with what an agent says of its runs; returns commands, in place of
            `commands`.
        requests: Names of all GraphQL operations in the order of arrival.
        unknown: Those among them that have no answer here.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.reports: list[dict[str, Any]] = []
        self.commands: deque[dict[str, Any]] = deque()
        self.heartbeats: list[dict[str, bool]] = []
        self.stopped: set[str] = set()
        self.on_heartbeat: Callable[[dict[str, bool]], list[dict[str, Any]]] = self._next_command
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self._artifacts: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; later requests are refused."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which the client logs in here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ENTITY": ENTITY}

    def add_sweep(self, content: dict[str, Any], *trials: dict[str, Any]) -> str:
        """Add a sweep and the parameters of trials that its agents get; returns the sweep's id."""
        sweep = f"sweep{len(self.sweeps)}"
        self.sweeps[sweep] = content
        for number, parameters in enumerate(trials):
            arguments = {key: {"value": value} for key, value in parameters.items()}
            command = {"type": "run", "run_id": f"{sweep}trial{number}", "args": arguments}
            self.commands.append({**command, "program": content.get("program")})
        return sweep

    def _next_command(self, alive: dict[str, bool]) -> list[dict[str, Any]]:
        if any(alive.values()):
            return []
        return [self.commands.popleft()] if self.commands else [{"type": "exit"}]

    # GraphQL: one method for each operation, named after it

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """What an operation returns; None if it is unknown here."""
        match = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = match[1] if match else query
        method = getattr(self, f"_{name}", None)
        with self._lock:
            self.requests.append(name)
            if method is None:
                self.unknown.append(name)
                return None
            return method(variables)

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        viewer = {
            "id": "VXNlcg==",
            "entity": ENTITY,
            "username": ENTITY,
            "email": "",
            "flags": "{}",
        }
        return {"viewer": {**viewer, "admin": False, "name": ENTITY, "teams": teams}}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        tail = json.dumps([json.dumps(line) for line in run.history[-1:]]) if run else ""
        bucket = run and {
            **self._bucket(run),
            "summaryMetrics": json.dumps(run.summary),
            "historyTail": tail,
            "eventsTail": "[]",
            "logLineCount": 0,
            "eventsLineCount": 0,
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }
        project = _project(variables.get("project") or "uncategorized")
        return {"model": {**project, "bucket": bucket}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"] or variables["id"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(name))
        run.starts += variables.get("host") is not None
        run.project = variables.get("project") or run.project
        run.name = variables.get("displayName") or run.name or name
        run.sweep = variables.get("sweep") or run.sweep
        config = json.loads(variables.get("config") or "{}")
        run.config |= {k: v["value"] for k, v in config.items() if k != "_wandb"}
        # W&B's own numbering: 1 is a metric's name, 5 the place of its axis, from 1 on.
        metrics = config.get("_wandb", {"value": {}})["value"].get("m", [])
        run.axes |= {m["1"]: metrics[m["5"] - 1]["1"] for m in metrics if "1" in m and "5" in m}
        run.summary |= json.loads(variables.get("summaryMetrics") or "{}")
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: Run) -> dict[str, Any]:
        return {
            "id": run.id,
            "name": run.id,
            "displayName": run.name,
            "description": "",
            "config": json.dumps({k: {"value": v} for k, v in run.config.items()}),
            "sweepName": run.sweep,
            "project": _project(run.project),
            "historyLineCount": len(run.history),
        }

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables["run"]
        files = [{"name": n, "uploadUrl": self._storage("run", run, n)} for n in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _MarkRunFilesUploaded(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"markRunFilesUploaded": {"success": True}}

    def _storage(self, *parts: str) -> str:
        return "/".join([self.url, "storage", *(quote(part, safe="") for part in parts)])

    # artifacts

    def _ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables["input"]
        names = given.get("artifactCollectionNames") or [given.get("artifactCollectionName")]
        kept = {"name": names[0], "type": given["artifactTypeName"], "files": {}, "digests": {}}
        kept |= {"committed": False, "metadata": json.loads(given.get("metadata") or "{}")}
        kept["aliases"] = [alias["alias"] for alias in given.get("aliases") or []]
        identity = str(len(self._artifacts))
        self._artifacts.append(kept)
        if given.get("runName") in self.runs:
            self.runs[given["runName"]].artifacts[str(names[0])] = kept
        sequence = {"id": f"sequence{identity}", "name": names[0], "latestArtifact": None}
        artifact = {"id": identity, "digest": given["digest"], "state": "PENDING"}
        return {"createArtifact": {"artifact": {**artifact, "artifactSequence": sequence}}}

    def _CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": self._manifest(variables["artifactID"])}

    def _UpdateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": self._manifest(variables["artifactManifestID"])}

    def _manifest(self, identity: str) -> dict[str, Any]:
        url = self._storage("manifest", identity, "wandb_manifest.json")
        file = {"id": "file", "uploadUrl": url, "uploadHeaders": []}
        return {"artifactManifest": {"id": identity, "file": file}}

    def _CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for spec in variables["input"]["artifactFiles"]:
            identity, name = spec["artifactID"], spec["name"]
            url = self._storage("artifact", identity, name)
            node = {"name": name, "storagePath": name, "uploadUrl": url, "uploadHeaders": []}
            nodes.append({"node": {**node, "artifact": {"id": identity}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        self._artifacts[int(variables["artifactID"])]["committed"] = True
        artifact = {"id": variables["artifactID"], "digest": "0"}
        return {"commitArtifact": {"artifact": artifact}}

    def _ArtifactByID(self, variables: dict[str, Any]) -> dict[str, Any]:
        identity = variables["id"]
        kept = self._artifacts[int(identity)]
        collection = {"name": kept["name"], "project": _project("uncategorized")}
        numbers = {"versionIndex": 0, "historyStep": 0, "size": 0, "fileCount": len(kept["files"])}
        life = {"ttlDurationSeconds": -1, "ttlIsInherited": True, "tags": [], "aliases": []}
        times = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": None}
        text = {"description": None, "metadata": "{}", "digest": "0", "commitHash": None}
        artifact = {**numbers, **life, **times, **text, "state": "COMMITTED", "id": identity}
        artifact |= {"__typename": "Artifact", "artifactType": {"name": kept["type"]}}
        sequence = {"__typename": "ArtifactSequence", **collection}
        return {"artifact": {**artifact, "artifactSequence": sequence}}

    def _UseArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables.get("input") or variables
        run = self.runs[given["runName"]]
        run.used.append(str(self._artifacts[int(given["artifactID"])]["name"]))
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    # sweeps

    def _UpsertSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = self.add_sweep(yaml.safe_load(variables["config"]))
        project = _project(variables.get("projectName") or "uncategorized")
        sweep = {"id": name, "name": name, "project": project}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _SweepWithRuns(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["sweep"]
        text = yaml.safe_dump(self.sweeps[name], sort_keys=False)
        sweep = {"id": name, "name": name, "method": self.sweeps[name].get("method")}
        return {"project": {"sweep": {**sweep, "config": text, "runs": {"edges": []}}}}

    def _CreateAgent(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def _Heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        alive = json.loads(variables["runState"])
        self.heartbeats.append(alive)
        commands = json.dumps(self.on_heartbeat(alive))
        return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": commands}}

    # reports

    def _Runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        if variables["project"] not in self._projects():
            return {"project": None}
        wanted = json.loads(variables["filters"])["name"]["$in"]
        runs = [run for run in self.runs.values() if run.project == variables["project"]]
        nodes = [{**self._bucket(run), "projectId": "1"} for run in runs if run.id in wanted]
        edges = [{"node": node, "cursor": node["id"]} for node in nodes]
        page = {"endCursor": None, "hasNextPage": False}
        runs = {"runCount": len(nodes), "runs": {"edges": edges, "pageInfo": page}}
        return {"project": {"internalId": "1", "readOnly": False, **runs}}

    def _projects(self) -> set[str]:
        return {run.project for run in self.runs.values()}

    def _GetProjects(self, _: dict[str, Any]) -> dict[str, Any]:
        rest = {"entityName": ENTITY, "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False}
        nodes = [{**_project(name), **rest, "user": None} for name in sorted(self._projects())]
        edges = [{"node": {"__typename": "Project", **node}} for node in nodes]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": edges, "pageInfo": page}}

    def _ProjectInternalId(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["projectName"]
        return {"project": _project(name) if name in self._projects() else None}

    def _upsertView(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.reports.append({**variables, "spec": json.loads(variables["spec"])})
        project = {"id": "1", "name": variables["projectName"], "entityName": ENTITY}
        view = {"id": f"report{len(self.reports)}", "project": project, "spec": variables["spec"]}
        same = {key: variables[key] for key in ("name", "displayName", "description", "type")}
        return {"upsertView": {"view": {**same, **view}, "inserted": True}}

    # what is not GraphQL

    def stream(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Keep a piece of a run's file stream; says whether the run is to stop."""
        with self._lock:
            run = self.runs.setdefault(name, Run(name))
            for file, chunk in (body.get("files") or {}).items():
                if file == "wandb-history.jsonl":
                    lines = [json.loads(line) for line in chunk["content"]]
                    run.history[chunk["offset"] : chunk["offset"] + len(lines)] = lines
                elif file == "wandb-summary.json":
                    run.summary |= json.loads(chunk["content"][-1])
            if body.get("complete"):
                run.exit_code = body.get("exitcode")
            return {"exitcode": None, "limits": {}, "stopped": name in self.stopped}

    def store(self, kind: str, owner: str, name: str, content: bytes) -> None:
        """Keep an uploaded file of a run or an artifact."""
        with self._lock:
            if kind == "run":
                self.runs[owner].files[name] = content
            elif kind == "artifact":
                self._artifacts[int(owner)]["files"][name] = content
            else:
                self._artifacts[int(owner)]["digests"] = json.loads(content).get("contents", {})


def _project(name: str) -> dict[str, Any]:
    return {"id": name, "internalId": "1", "name": name, "entity": {"id": ENTITY, "name": ENTITY}}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # a client that has ended
                super().handle()

        def do_POST(self) -> None:
            body = self._body()
            user = base64.b64decode(self.headers.get("Authorization", "").partition(" ")[2])
            if user.partition(b":")[2].decode() != KEY:
                self._reply({"errors": [{"message": "invalid API key"}]}, status=401)
            elif self.path == "/graphql":
                request = json.loads(body)
                data = server.answer(request["query"], request.get("variables") or {})
                errors = {"errors": [{"message": "unknown operation"}]}
                self._reply(
                    errors if data is None else {"data": data}, 400 if data is None else 200
                )
            else:  # /files/ENTITY/PROJECT/RUN/file_stream
                self._reply(server.stream(self.path.split("/")[-2], json.loads(body)))

        def do_PUT(self) -> None:
            _, _, kind, owner, name = map(unquote, self.path.split("/"))
            server.store(kind, owner, name, self._body())
            self._reply({})

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _reply(self, content: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing on the console."""

    return Handler
