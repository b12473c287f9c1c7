"""A real server in a thread, over any chat, for the tests of `serve`."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import OpenAI

from video_llama.apps.serve import bind
from video_llama.apps.serve_app import build_app
from video_llama.apps.serve_kept import KeptChats
from video_llama.apps.serve_lifetime import Server
from video_llama.apps.serve_media import MediaDoor
from video_llama.apps.serve_remote import RemoteLimits
from video_llama.apps.serve_service import Service, ServiceLimits
from video_llama.apps.serve_talk import Talker, TalkLimits
from video_llama.conversation.chat import Chat

MODEL = "tiny"


@dataclass(frozen=True)
class Setup:
    """What a server is told; the defaults are those of a careful owner."""

    limits: ServiceLimits = field(default_factory=ServiceLimits)
    talk: TalkLimits = field(default_factory=TalkLimits)
    roots: tuple[Path, ...] = ()
    remote: RemoteLimits | None = None
    max_media_bytes: int = 1 << 20
    max_kept: int = 16
    max_kept_bytes: int = 1 << 24
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    grace_s: float = 5.0


@dataclass(frozen=True)
class Served:
    """A running server."""

    service: Service
    server: Server
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, *, api_key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=60)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@contextmanager
def served(chat: Chat, setup: Setup | None = None) -> Iterator[Served]:
    """Serve a chat until the block ends."""
    setup = setup or Setup()
    door = MediaDoor(local_roots=setup.roots, remote=setup.remote, max_bytes=setup.max_media_bytes)
    kept = KeptChats(max_chats=setup.max_kept, max_bytes=setup.max_kept_bytes)
    talker = Talker(chat, door=door, kept=kept, limits=setup.talk)
    service = Service(talker, model_name=MODEL, limits=setup.limits)
    app = build_app(service, api_key=setup.api_key, origins=setup.origins)
    server = Server(app, service=service, grace_s=setup.grace_s)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Served(service, server, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


def user(*parts: Any) -> dict[str, Any]:
    """A question; strings are words."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
