"""A small Hugging Face Hub on this machine: what `huggingface_hub` asks when it downloads and uploads, nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_this_test"
_REPOSITORY = r"(?P<repo>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<kind>model|dataset)s/{_REPOSITORY}"
Files = dict[str, bytes]


class HubServer:
    """A hub for the length of a `with`.

    Attributes:
        url: what HF_ENDPOINT takes.
        commits: (kind, repository) → commit → its files by path; the last one is `main`.
        refused: repository → what every request for it is answered with: status and the Hub's name of the error.
        broken: parts of paths; a request whose path holds one is answered with status 400.
        requests: method and path of all that came in.
        user: of `TOKEN`; `role` says what it may.
    """

    def __init__(self):
        self.commits: dict[tuple[str, str], dict[str, Files]] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.broken: list[str] = []
        self.requests: list[str] = []
        self.user, self.role = "me", "write"
        self.stored: dict[str, bytes] = {}

    def __enter__(self) -> HubServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo: str, source: Path | Files, kind: str = "model") -> str:
        """Commit the files of a folder, or these files, as the newest of a repository; returns the commit."""
        files = source
        if isinstance(source, Path):
            paths = [path for path in source.rglob("*") if path.is_file()]
            files = {path.relative_to(source).as_posix(): path.read_bytes() for path in paths}
        known = self.commits.setdefault((kind, repo), {})
        commit = hashlib.sha1(f"{kind} {repo} {len(known)}".encode()).hexdigest()
        known[commit] = dict(files)
        return commit

    def newest(self, repo: str, kind: str = "model") -> Files:
        """The files of the last commit."""
        return list(self.commits[kind, repo].values())[-1]

    def downloaded(self) -> list[str]:
        """The files that were asked for, in order."""
        return [
            line.split("/resolve/")[1].split("/", 1)[1]
            for line in self.requests
            if re.match("GET .*/resolve/", line)
        ]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Of a child process that knows this hub alone, and keeps its cache in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **more,
        }


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing: a test counts what was asked for (`HubServer`), and its output is the program's."""

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_POST(self) -> None:
        path, body = self._begin()
        if path is None:
            return
        if path == "/api/validate-yaml":
            self._json({"warnings": [], "errors": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.hub.commits.setdefault((asked.get("type") or "model", repo), {})
            self._json({"url": f"{self.hub.url}/{repo}", "visibility": asked.get("visibility")})
        elif found := re.fullmatch(rf"{_API}/preupload/.+", path):
            weights = (".safetensors",)
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(weights) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif re.fullmatch(rf"/{_REPOSITORY}\.git/info/lfs/objects/batch", path):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(rf"{_API}/commit/.+", path):
            self._commit(found["repo"], found["kind"], body)
        else:
            self._refuse(404, "")

    def do_PUT(self) -> None:
        path, body = self._begin()
        if path is None:
            return
        self.hub.stored[path.removeprefix("/lfs/")] = body
        self._json({})

    def _begin(self) -> tuple[str | None, bytes]:
        """The path and body of a request; no path where the hub is told to break."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if any(part in path for part in self.hub.broken):
            self._refuse(400, "")
            return None, body
        return path, body

    def _commit(self, repo: str, kind: str, body: bytes) -> None:
        known = self.hub.commits[kind, repo]
        files = dict(self.hub.newest(repo, kind)) if known else {}
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        commit = self.hub.add(repo, files, kind)
        self._json(
            {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit, "success": True}
        )

    def _get(self) -> None:
        path, _ = self._begin()
        if path is None:
            return None
        if path == "/api/whoami-v2":
            return self._who()
        api = re.fullmatch(rf"{_API}(?:/(?P<what>revision|tree)/(?P<revision>refs/pr/\d+|[^/]+))?", path)
        file = re.fullmatch(
            rf"/(?P<data>datasets/)?{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", path
        )
        found = api or file
        if found is None:
            return self._refuse(404, "")
        kind = api["kind"] if api else "dataset" if file["data"] else "model"
        if found["repo"] in self.hub.refused:
            return self._refuse(*self.hub.refused[found["repo"]])
        known = self.hub.commits.get((kind, found["repo"]))
        if not known:
            return self._refuse(
                404 if TOKEN in self.headers.get("Authorization", "") else 401, "RepoNotFound"
            )
        commit = list(known)[-1] if found["revision"] in (None, "main") else found["revision"]
        if commit not in known:
            return self._refuse(404, "RevisionNotFound")
        if file:
            return self._file(commit, known[commit], file["path"])
        if api["what"] == "tree":
            return self._json([self._entry(name, content) for name, content in sorted(known[commit].items())])
        names = [{"rfilename": name} for name in sorted(known[commit])]
        return self._json(
            {"id": found["repo"], "sha": commit, "siblings": names, "private": False, "tags": []}
        )

    def _who(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "")
        token = {"displayName": "test", "role": self.hub.role}
        return self._json(
            {
                "type": "user",
                "name": self.hub.user,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    @staticmethod
    def _entry(name: str, content: bytes) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content)}

    def _file(self, commit: str, files: Files, name: str) -> None:
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        content = files[name]
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        part = content[int(begin[1]) :] if begin else content
        return self._answer(
            206 if begin else 200, part, {"X-Repo-Commit": commit, "ETag": f'"{_git_oid(content)}"'}
        )

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._answer(
            status,
            b'{"error": "no"}',
            {"X-Error-Code": code, "Content-Type": "application/json"} if code else {},
        )

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
