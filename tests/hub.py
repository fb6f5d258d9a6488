"""A stand-in for the Hugging Face Hub on loopback: dataset repositories, tokens, commits, files.

It speaks what `huggingface_hub` and `datasets` say when they push and load (without Xet: set
`HF_HUB_DISABLE_XET=1`, and `HF_ENDPOINT` to `endpoint`, before they are imported). Tests look at
`repos` for what really arrived, at `requests` for what was asked, and break it on purpose with
`break_at`, `hold_at`, `conflicts` and `create_public`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Files = dict[str, bytes]
#: What the Hub's own check of a card refuses, as far as these tests need it.
_LISTS = ("tags", "task_categories", "source_datasets", "annotations_creators", "size_categories")
_LICENCES = {"mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "other", "unknown"}
_TASKS = {"image-to-text", "object-detection", "image-text-to-text", "image-classification"}


@dataclass
class Repo:
    """A dataset repository: commits are whole file lists, branches point to them."""

    private: bool
    owner: str
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def sha(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> Files:
        return self.commits[self.branches[revision]]


class HubStandIn:
    """Serves while the context is open; state is read and changed directly by the tests."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens = {"hf_write": ("ada", "write"), "hf_read": ("ada", "read")}
        self.large: Files = {}
        self.requests: list[tuple[str, str]] = []
        self.broken: list[tuple[str, str, int]] = []
        self.held: list[tuple[str, str, threading.Event]] = []
        self.closing = threading.Event()
        self.conflicts = 0
        self.create_public = False

    def __enter__(self) -> HubStandIn:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repo_id: str, files: Files | None = None, *, private: bool = True) -> Repo:
        repo = self.repos[repo_id] = Repo(private, repo_id.split("/")[0])
        repo.commit(files or {})
        return repo

    def break_at(self, method: str, path: str, status: int = 500) -> None:
        """Answer requests whose path matches the pattern with `status`; 0 drops the connection."""
        self.broken.append((method, path, status))

    def hold_at(self, method: str, path: str) -> threading.Event:
        """Never answer requests whose path matches; the event is set when the first arrives."""
        arrived = threading.Event()
        self.held.append((method, path, arrived))
        return arrived

    def asked(self, method: str, path: str) -> int:
        return sum(m == method and bool(re.search(path, p)) for m, p in self.requests)


class _Refusal(Exception):
    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message or code


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        self.url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self._chunks()
        self.hub.requests.append((self.command, self.url.path))
        for method, pattern, status in self.hub.broken:
            if method == self.command and re.search(pattern, self.url.path):
                if not status:
                    self.close_connection = True
                    return None
                return self._answer({"error": "broken on purpose"}, status)
        for method, pattern, arrived in self.hub.held:
            if method == self.command and re.search(pattern, self.url.path):
                arrived.set()
                self.hub.closing.wait(60)
                self.close_connection = True
                return None
        try:
            for method, pattern, action in _ROUTES:
                found = re.fullmatch(pattern, self.url.path)
                if found and method in (self.command, "GET" if self.command == "HEAD" else ""):
                    return action(self, **{k: unquote(v) for k, v in found.groupdict("").items()})
            raise _Refusal(404, "NotFound")
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._answer({"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _chunks(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # Who asks, and what they may.

    def _user(self) -> tuple[str | None, str]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None, ""
        if token not in self.hub.tokens:
            raise _Refusal(401, "", "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def _repo(self, repo: str, *, write: bool = False) -> Repo:
        user, role = self._user()
        found = self.hub.repos.get(repo)
        if found is None or (found.private and user != found.owner):
            raise _Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and (user != found.owner or role != "write"):
            raise _Refusal(403, "", "You don't have the rights to write to this repository")
        return found

    def _files(self, repo: str, revision: str) -> tuple[str, Files]:
        found = self._repo(repo)
        sha = found.sha(revision)
        if sha is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, found.commits[sha]

    # What the Hub does.

    def whoami(self) -> None:
        user, role = self._user()
        if user is None:
            raise _Refusal(401, "", "Invalid username or password.")
        token = {"displayName": "test", "role": role}
        self._answer({"type": "user", "name": user, "auth": {"accessToken": token}, "orgs": []})

    def info(self, repo: str, revision: str = "") -> None:
        sha, files = self._files(repo, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(files)]
        card = yaml.safe_load(_front_matter(files.get("README.md", b"").decode()) or "{}")
        body = {"id": repo, "sha": sha, "private": self._repo(repo).private, "tags": []}
        self._answer({**body, "siblings": siblings, "cardData": card, "disabled": False})

    def may_write(self, repo: str) -> None:
        self._repo(repo, write=True)
        self._answer({})

    def create(self) -> None:
        user, role = self._user()
        wanted = json.loads(self.body)
        owner = wanted.get("organization") or user
        if role != "write" or owner != user:
            raise _Refusal(403, "", "You don't have the rights to create a dataset there")
        repo = f"{owner}/{wanted['name']}"
        if repo in self.hub.repos:
            raise _Refusal(409, "", "You already created this dataset repo")
        private = wanted.get("visibility") == "private" and not self.hub.create_public
        self.hub.add(repo, {".gitattributes": b"*.parquet filter=lfs\n"}, private=private)
        self._answer({"url": f"{self.hub.endpoint}/datasets/{repo}", "name": repo, "id": repo})

    def branch(self, repo: str, branch: str) -> None:
        found = self._repo(repo, write=True)
        if branch in found.branches:
            raise _Refusal(409, "", "Reference already exists")
        found.branches[branch] = found.branches["main"]
        self._answer({})

    def validate(self) -> None:
        problems = _card_problems(json.loads(self.body)["content"])
        errors = [{"message": problem} for problem in problems]
        self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, repo: str, revision: str) -> None:
        self._repo(repo, write=True)
        self._answer(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if _is_large(file["path"]) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(self.body)["files"]
                ]
            }
        )

    def batch(self, repo: str) -> None:
        self._repo(repo, write=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.endpoint}/large/{wanted['oid']}"}}
            known = wanted["oid"] in self.hub.large
            objects.append({**wanted, **({} if known else {"actions": upload})})
        self._answer({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400, "", "the content is not what was announced")
        self.hub.large[oid] = self.body
        self._answer(b"")

    def commit(self, repo: str, revision: str) -> None:
        found = self._repo(repo, write=True)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        if self.hub.conflicts:
            self.hub.conflicts -= 1  # somebody else is faster
            found.commit({**found.files(revision), "theirs.txt": b"theirs"}, revision)
        parent = lines[0]["value"].get("parentCommit")
        if parent and parent != found.branches[revision]:
            raise _Refusal(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(found.files(revision))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise _Refusal(400, "", f"unknown operation {line['key']}")
        sha = found.commit(files, revision)
        url = f"{self.hub.endpoint}/datasets/{repo}/commit/{sha}"
        self._answer({"success": True, "commitOid": sha, "commitUrl": url})

    def tree(self, repo: str, revision: str, folder: str = "") -> None:
        _, files = self._files(repo, revision)
        prefix = f"{folder}/" if folder else ""
        inside = {path: data for path, data in files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise _Refusal(404, "EntryNotFound", f"{folder} does not exist")
        entries = {}
        for path, data in inside.items():
            name, _, rest = path[len(prefix) :].partition("/")
            if (
                not rest
                or parse_qs(self.url.query).get("recursive", ["false"])[0].lower() == "true"
            ):
                entries[path] = _entry(path, data)
            if rest:
                entries[prefix + name] = _entry(prefix + name, None)
        self._answer([entries[path] for path in sorted(entries)])

    def paths(self, repo: str, revision: str) -> None:
        _, files = self._files(repo, revision)
        found = []
        for path in parse_qs(self.body.decode()).get("paths", []):
            if path in files:
                found.append(_entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                found.append(_entry(path, None))
        self._answer(found)

    def resolve(self, repo: str, revision: str, path: str) -> None:
        sha, files = self._files(repo, revision)
        if path not in files:
            raise _Refusal(404, "EntryNotFound", f"{path} does not exist")
        data = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return self._answer(data, 200, {**headers, "Accept-Ranges": "bytes"})
        first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._answer(data[first : last + 1], 206, headers)


_REPO = r"/api/datasets/(?P<repo>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", _REPO, _Handler.info),
    ("GET", _REPO + r"/revision/(?P<revision>[^/]+)", _Handler.info),
    ("GET", _REPO + r"/auth-check/write", _Handler.may_write),
    ("GET", _REPO + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", _Handler.tree),
    ("POST", _REPO + r"/branch/(?P<branch>[^/]+)", _Handler.branch),
    ("POST", _REPO + r"/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", _REPO + r"/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("POST", _REPO + r"/paths-info/(?P<revision>[^/]+)", _Handler.paths),
    ("POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/large/(?P<oid>[0-9a-f]{64})", _Handler.put),
    (
        "GET",
        r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        _Handler.resolve,
    ),
]


def _is_large(path: str) -> bool:
    return path.endswith((".parquet", ".jpg", ".png"))


def _entry(path: str, data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
    entry = {"type": "file", "path": path, "size": len(data)}
    sha256 = hashlib.sha256(data).hexdigest()
    if _is_large(path):
        entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
    return {**entry, "oid": hashlib.sha1(data).hexdigest()}


def _front_matter(card: str) -> str | None:
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(?:\n|$)", card, re.DOTALL)
    return found[1] if found else None


def _card_problems(card: str) -> list[str]:
    try:
        data = yaml.safe_load(_front_matter(card) or "{}")
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata is no mapping"]
    problems = [
        f"{key} must be a list" for key in _LISTS if not isinstance(data.get(key, []), list)
    ]
    licence = data.get("license")
    licences = licence if isinstance(licence, list) else [licence] if licence else []
    problems += [f"unknown license {name}" for name in licences if name not in _LICENCES]
    problems += [f"unknown task {t}" for t in data.get("task_categories", []) if t not in _TASKS]
    return problems
