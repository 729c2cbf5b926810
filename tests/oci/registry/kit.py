"""What the tests of the registry client share."""

import hashlib
import threading
from dataclasses import dataclass
from typing import Any

from lamina.oci.registry.client import Registry
from lamina.oci.registry.options import Options
from lamina.oci.registry.reference import Reference
from tests.oci.registry.scripted import Exchange, Scripted

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = b'{"schemaVersion":2}'


@dataclass(frozen=True)
class Blob:
    digest: str
    size: int


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob_of(data: bytes) -> Blob:
    return Blob(digest_of(data), len(data))


def quick(**changes: Any) -> Options:
    """Options with short waits."""
    return Options(**{"plain_http": True, "backoff": 0.001, "retries": 3, "read_timeout": 5.0, **changes})


class Notices(list[str]):
    """What the client tells the user; safe to append to from threads."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def __call__(self, text: str) -> None:
        self.append(text)
        self.came.set()


def client(server: Scripted, notices: Notices | None = None, **changes: Any) -> Registry:
    return Registry(server.host, quick(**changes), notice=notices)


def manifest(exchange: Exchange) -> None:
    exchange.reply(200, MANIFEST, Content_Type=MANIFEST_TYPE)


def pull(registry: Registry, target: str = "1") -> bytes:
    tag, digest = (None, target) if ":" in target else (target, None)
    return registry.manifest(Reference(registry.host, "a", tag, digest)).raw
