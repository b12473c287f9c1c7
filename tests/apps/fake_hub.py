"""A hub of one repository on the file server, as far as its client library asks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from common.file_server import FileServer, Served

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve_repository(
    server: FileServer, repo: str, files: Mapping[str, bytes], *, sha256: str | None = None
) -> None:
    """Add a repository.

    Args:
        server: that answers.
        repo: organisation and name.
        files: by path; `.json` ones lie in git, all others are large files with a SHA-256.
        sha256: said of the large files instead of the true one.
    """
    siblings = []
    for name, content in files.items():
        entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "b" * 40}
        digest = hashlib.sha1(content).hexdigest()
        if not name.endswith(".json"):
            digest = sha256 or hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 130}
        siblings.append(entry)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        for revision in ("main", COMMIT):
            server.files[f"/{repo}/resolve/{revision}/{name}"] = Served(content, headers)
    info = json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
    for revision in ("main", COMMIT):
        path = f"/api/models/{repo}/revision/{revision}"
        server.files[path] = Served(info, {"Content-Type": "application/json"})
    server.files[f"/api/models/{repo}"] = server.files[path]
