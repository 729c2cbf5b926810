"""A registry: manifests, blobs and tags, as the OCI distribution-spec 1.1 has them.

For what is read, mirrors are asked first, each once more or less patiently, and then the registry itself. A digest is
computed from the bytes that came and compared with what was asked for and with what the server says: so a mirror can
lie about a tag, but not about an image that is named by its digest.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlencode

from lamina.errors import RegistryError
from lamina.oci.formats.models import digest_of
from lamina.oci.registry.answer import Answer
from lamina.oci.registry.authentication import Scope
from lamina.oci.registry.credentials import Credentials, CredentialStore, Found
from lamina.oci.registry.download import BlobDescription, BlobStream
from lamina.oci.registry.endpoint import Endpoint
from lamina.oci.registry.options import Options
from lamina.oci.registry.reference import Reference, api_host, check_digest
from lamina.oci.registry.transport import Transport, resolved
from lamina.oci.registry.upload import BlobUpload, Pushed
from lamina.pool.names import printable

MAX_MANIFEST = 4 << 20
"""Bytes of a manifest (OCI distribution-spec, "Pushing Manifests")."""

MAX_TAGS = 1_000_000
"""Tags of a repository that are listed at most: a server could go on for ever."""

_MAX_TAGS_PAGE = 32 << 20
_PAGE = 1000
_BUFFER = 256 << 10

T = TypeVar("T")

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""What is asked for. Docker's schema 1 is not in it: registries that have nothing else send it all the same."""


class FetchedManifest(NamedTuple):
    """A manifest or an index, byte for byte; ``digest`` was computed from ``raw``."""

    raw: bytes
    media_type: str
    digest: str


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What a registry says of a manifest without sending it."""

    media_type: str
    digest: str
    size: int


class Registry:
    """A registry and its mirrors. Safe to use from several threads; ``close`` from any of them ends all transfers."""

    def __init__(
        self,
        host: str,
        options: Options | None = None,
        *,
        repository: str = "",
        environment: Mapping[str, str] | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        """``host`` is a reference's, and ``repository``, whose credentials are used: some have their own.

        ``notice`` gets a line when something is tried again or another server is asked.
        """
        options = options or Options()
        environment = dict(os.environ if environment is None else environment)
        self.host = host
        self._options = options
        self._repository = repository
        self._store = CredentialStore(options.authfile, environment)
        self._transports: list[Transport] = []

        def endpoint(name: str, api: str, options: Options, prefix: str, plain_http: bool) -> Endpoint:
            transport = Transport(name, api, options, environment=environment, notice=notice)
            self._transports.append(transport)
            return Endpoint(
                name, api, transport, lambda: self._credentials(name, options), prefix=prefix, plain_http=plain_http
            )

        self._origin = endpoint(host, api_host(host), options, "", options.plain_http)
        # The user and password of the command line are the registry's; a mirror is not waited for as long.
        others = replace(options, username=None, password=None, retries=min(options.retries, 1))
        self._mirrors = [
            endpoint(mirror.host, api_host(mirror.host), others, mirror.prefix, bool(mirror.plain_http))
            for mirror in options.mirrors
            if mirror.registry == host
        ]

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut all connections. Reads of other threads end soon with ``RegistryError``."""
        for transport in self._transports:
            transport.close()

    def manifest(self, reference: Reference, accept: Sequence[str] = MANIFEST_TYPES) -> FetchedManifest:
        """Fetch what a reference names. Raises ``RegistryError``; its ``status`` is 404 where there is none."""
        return self._from_any(lambda endpoint: self._manifest(endpoint, reference, accept))

    def head_manifest(self, reference: Reference, accept: Sequence[str] = MANIFEST_TYPES) -> ManifestHead | None:
        """What the registry has under a reference's name; None if nothing. The digest is what the server says."""

        def ask(endpoint: Endpoint) -> ManifestHead:
            doing = f"cannot find {reference.familiar}"
            scope, url = _manifest_of(endpoint, reference)
            with endpoint.send("HEAD", url, (scope,), headers={"Accept": ", ".join(accept)}) as answer:
                if answer.status != 200:
                    raise endpoint.refusal(answer, doing)
                digest, length = answer.header("Docker-Content-Digest"), answer.length
                media_type = _media_type(answer)
            if digest is None or length is None or not media_type:
                # The headers are a SHOULD: what has none is fetched.
                fetched = self._manifest(endpoint, reference, accept)
                return ManifestHead(fetched.media_type, fetched.digest, len(fetched.raw))
            return ManifestHead(media_type, self._checked(digest, reference, endpoint), length)

        try:
            return self._from_any(ask)
        except RegistryError as error:
            if error.status == 404:
                return None
            raise

    def blob(self, repository: str, blob: BlobDescription) -> BinaryIO:
        """A blob as a stream of as many bytes as ``blob`` says, which goes on by itself where it was cut.

        Nothing is asked for before the first read, and the digest is not verified: that is the reader's. Close it.
        """
        check_digest(blob.digest)
        return io.BufferedReader(BlobStream([*self._mirrors, self._origin], repository, blob), _BUFFER)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the registry itself has a blob in a repository: then it need not be sent."""
        check_digest(digest)
        endpoint = self._origin
        answer = endpoint.send("HEAD", endpoint.url(f"{repository}/blobs/{digest}"), (Scope(repository, "pull,push"),))
        with answer:
            if answer.status == 404:
                return False
            if answer.status != 200:
                raise endpoint.refusal(answer, f"cannot ask {self.host}/{repository} for blob {digest}")
            return True

    def mount_blob(self, repository: str, digest: str, from_repository: str) -> bool:
        """Have a blob of another repository of the same registry in this one. False: it has to be sent."""
        check_digest(digest)
        endpoint = self._origin
        scopes = (Scope(repository, "pull,push"), Scope(from_repository))
        query = urlencode({"mount": digest, "from": from_repository})
        with endpoint.send("POST", endpoint.url(f"{repository}/blobs/uploads/?{query}"), scopes, body=b"") as answer:
            if answer.status == 201:
                return True
            location = answer.header("Location") if answer.status == 202 else None
        if location is not None:
            # The registry began an upload instead. It is not used: to leave it open would fill its disk.
            try:
                endpoint.send("DELETE", resolved(answer.url, location), scopes, again=False).close()
            except RegistryError:
                pass  # it goes away by itself
        return False

    def push_blob(
        self,
        repository: str,
        digest: str | None,
        size: int | None,
        opener: Callable[[], BinaryIO],
        progress: Callable[[int], None] | None = None,
    ) -> Pushed:
        """Send a blob. ``opener`` gives it from its beginning, each time anew: a cut upload begins again.

        Without a digest or a size the blob is sent as it is made, and what it came to is returned. ``progress`` gets
        the bytes sent so far; the count goes back when the upload begins again.
        """
        if digest is not None:
            check_digest(digest)
        return BlobUpload(self._origin, repository, digest, size, opener, progress).run()

    def put_manifest(self, reference: Reference, raw: bytes, media_type: str) -> str:
        """Give a manifest or an index to the registry under a tag or its digest; returns the digest."""
        endpoint, doing = self._origin, f"cannot push {reference.familiar}"
        digest = digest_of(raw)
        if reference.digest is not None and _digest_like(reference.digest, raw) != reference.digest:
            raise RegistryError(f"{doing}: the manifest's digest is {digest}")
        answer = endpoint.send(
            "PUT",
            endpoint.url(f"{reference.repository}/manifests/{reference.target}"),
            (Scope(reference.repository, "pull,push"),),
            headers={"Content-Type": media_type},
            body=raw,
        )
        if answer.status not in (200, 201, 202):
            raise endpoint.refusal(answer, doing)
        with answer:
            said = answer.header("Docker-Content-Digest")
        if said is not None and said != _digest_like(said, raw):
            raise RegistryError(f"{doing}: {self.host} took it as {printable(said[:160])}, it is {digest}")
        return digest

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository, in the registry's order."""
        endpoint, doing = self._origin, f"cannot list the tags of {self.host}/{repository}"
        url: str | None = endpoint.url(f"{repository}/tags/list?n={_PAGE}")
        found: dict[str, None] = {}
        seen: set[str] = set()
        while url is not None and url not in seen:
            seen.add(url)
            answer, raw = endpoint.fetch(url, (Scope(repository),), _MAX_TAGS_PAGE, "a list of tags")
            if answer.status != 200:
                raise endpoint.refusal(answer, doing)
            page, following = _tags_of(raw, doing), _next_link(answer)
            before = len(found)
            found.update(dict.fromkeys(page))
            if len(found) > MAX_TAGS:
                raise RegistryError(f"{doing}: it has more than {MAX_TAGS}")
            # A page that brings nothing new would be the first of an endless number.
            url = resolved(answer.url, following) if following and len(found) > before else None
        return list(found)

    def _credentials(self, name: str, options: Options) -> Found:
        if options.username is not None:
            return Found(Credentials(options.username, options.password or ""))
        return self._store.find(name, self._repository)

    def _from_any(self, ask: Callable[[Endpoint], T]) -> T:
        """What the first of mirrors and registry gives. A mirror that fails in any way is passed over."""
        for mirror in self._mirrors:
            try:
                return ask(mirror)
            except RegistryError as error:
                mirror.transport.check()
                mirror.transport.notice(f"{error}; {self.host} is asked instead")
        return ask(self._origin)

    def _manifest(self, endpoint: Endpoint, reference: Reference, accept: Sequence[str]) -> FetchedManifest:
        scope, url = _manifest_of(endpoint, reference)
        what, headers = f"a manifest of {reference.familiar}", {"Accept": ", ".join(accept)}
        answer, raw = endpoint.fetch(url, (scope,), MAX_MANIFEST, what, headers)
        if answer.status != 200:
            raise endpoint.refusal(answer, f"cannot pull {reference.familiar}")
        said, media_type = answer.header("Docker-Content-Digest"), _media_type(answer)
        doing = f"cannot pull {reference.familiar}: {endpoint.name} sent a manifest"
        digest = digest_of(raw)
        if reference.digest is not None:
            computed = _digest_like(reference.digest, raw)
            if computed != reference.digest:
                raise RegistryError(f"{doing} whose digest is {computed}, not the one that was asked for")
            digest = reference.digest
        if said is not None and said != _digest_like(said, raw):
            raise RegistryError(f"{doing} as {printable(said[:160])}, but its digest is {digest}")
        return FetchedManifest(raw, media_type, digest)

    def _checked(self, digest: str, reference: Reference, endpoint: Endpoint) -> str:
        """A digest that a server names; it has to be the one that was asked for."""
        if _digest_like(digest, b"") is None:
            raise RegistryError(f"{endpoint.name} says '{printable(digest[:160])}' is a digest of {reference.familiar}")
        if reference.digest is not None and digest != reference.digest:
            raise RegistryError(f"{endpoint.name} has another manifest at {reference.familiar}: {digest}")
        return digest


def _manifest_of(endpoint: Endpoint, reference: Reference) -> tuple[Scope, str]:
    """What is wanted of a server for a manifest, and where it has it."""
    repository = endpoint.repository(reference.repository)
    return Scope(repository), endpoint.url(f"{repository}/manifests/{reference.target}")


def _digest_like(digest: str, raw: bytes) -> str | None:
    """The digest of ``raw`` by the algorithm of another digest; None if that is no digest."""
    found = re.fullmatch(r"(sha256|sha512):([0-9a-f]{64}|[0-9a-f]{128})", digest)
    return None if found is None else f"{found[1]}:{hashlib.new(found[1], raw).hexdigest()}"


def _media_type(answer: Answer) -> str:
    """The content type without its parameters, made fit for messages."""
    return printable((answer.header("Content-Type") or "").partition(";")[0].strip().lower()[:256])


def _tags_of(raw: bytes, doing: str) -> list[str]:
    try:
        document = json.loads(raw)
        tags = document["tags"] or []
    except (ValueError, RecursionError, KeyError, TypeError):
        raise RegistryError(f"{doing}: the answer is no list of tags") from None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise RegistryError(f"{doing}: the answer is no list of tags")
    return tags


def _next_link(answer: Answer) -> str | None:
    """The address of the next page (RFC 8288): ``Link: <URL>; rel="next"``."""
    for header in answer.headers("Link"):
        for url, parameters in re.findall(r"<([^>]*)>([^,<]*)", header[: 16 << 10]):
            if re.search(r';\s*rel\s*=\s*"?next"?\s*(?:;|$)', parameters, re.IGNORECASE):
                return str(url)
    return None
