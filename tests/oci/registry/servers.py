"""Debian's docker-registry on a loopback port of its own: plain, with passwords, with TLS by an own CA, with tokens.

    with running_registry(tmp_path) as registry: ...              # plain HTTP, nobody asked for a name
    with running_registry(tmp_path, users={"ann": "secret"}) ...  # htpasswd, HTTP basic
    with running_registry(tmp_path, tls=True) as registry: ...    # https; registry.ca_file is the CA
    with running_registry(tmp_path, proxied="http://...") ...     # a pull-through cache of another registry

``registry.host`` is ``127.0.0.1:PORT``; storage lies in ``tmp_path``; deleting is allowed.
"""

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NEEDED = ("docker-registry", "openssl", "htpasswd")
"""Programs of the Debian packages docker-registry, openssl and apache2-utils."""


@dataclass(frozen=True)
class RunningRegistry:
    """A registry that answers."""

    host: str
    storage: Path
    log: Path
    ca_file: Path | None = None
    users: Mapping[str, str] | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.ca_file is None else 'https'}://{self.host}"

    def blob_file(self, digest: str) -> Path:
        """Where the registry keeps a blob: to damage or to remove it."""
        algorithm, _, value = digest.partition(":")
        return self.storage / "docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"


@dataclass(frozen=True)
class Certificates:
    """A CA made for one test, and a certificate of it for 127.0.0.1, ::1 and localhost."""

    ca_file: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class TokenService:
    """Whom the registry believes: the server of tokens is the test's own."""

    realm: str
    service: str
    issuer: str
    certificate: Path


def sign(certificates: Certificates, claims: Mapping[str, object]) -> str:
    """A JSON web token that a registry with these certificates as ``TokenService`` believes (ES256)."""
    der = subprocess.run(
        ["openssl", "x509", "-in", str(certificates.certificate), "-outform", "DER"], check=True, capture_output=True
    ).stdout
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    signing = ["openssl", "dgst", "-sha256", "-sign", str(certificates.key)]
    signature = subprocess.run(signing, input=signed.encode(), check=True, capture_output=True).stdout
    return f"{signed}.{_base64url(_raw_signature(signature))}"


def _raw_signature(der: bytes) -> bytes:
    """The two numbers of an ASN.1 signature, 32 bytes each."""
    numbers, position = b"", 2
    for _ in range(2):
        length = der[position + 1]
        numbers += int.from_bytes(der[position + 2 : position + 2 + length]).to_bytes(32)
        position += 2 + length
    return numbers


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def need(*programs: str) -> None:
    """Skip the test where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


def make_certificates(directory: Path, names: Sequence[str] = ()) -> Certificates:
    """Make a CA and a certificate of it with the openssl program; ``names`` are hosts beside those of loopback."""
    need("openssl")
    directory.mkdir(parents=True, exist_ok=True)
    ca, ca_key = directory / "ca.crt", directory / "ca.key"
    certificate, key, request = directory / "server.crt", directory / "server.key", directory / "server.csr"
    extensions = directory / "server.ext"
    hosts = ",".join(["IP:127.0.0.1", "IP:::1", "DNS:localhost", *(f"DNS:{name}" for name in names)])
    extensions.write_text(f"subjectAltName={hosts}\nextendedKeyUsage=serverAuth,clientAuth\n")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _openssl("req", "-x509", *new, "-keyout", str(ca_key), "-out", str(ca), "-days", "2", "-subj", "/CN=lamina test CA")
    _openssl("req", *new, "-keyout", str(key), "-out", str(request), "-subj", "/CN=localhost")
    signing = ["-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "2"]
    _openssl("x509", "-req", *signing, "-extfile", str(extensions), "-out", str(certificate))
    return Certificates(ca, certificate, key)


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


@contextmanager
def running_registry(
    directory: Path,
    *,
    users: Mapping[str, str] | None = None,
    tls: bool = False,
    tokens: TokenService | None = None,
    proxied: str | None = None,
    name: str = "registry",
) -> Iterator[RunningRegistry]:
    """Start a registry in ``directory/NAME``, wait until it listens, stop it at the end."""
    need("docker-registry")
    root = directory / name
    root.mkdir(parents=True, exist_ok=True)
    http: dict[str, object] = {"addr": "127.0.0.1:0", "secret": "of a test", "relativeurls": False}
    configuration: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root / "storage")}, "delete": {"enabled": True}},
        "http": http,
    }
    certificates = make_certificates(root / "tls") if tls else None
    if certificates is not None:
        http["tls"] = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    if users is not None:
        configuration["auth"] = {"htpasswd": {"realm": "lamina test", "path": str(_htpasswd(root, users))}}
    if tokens is not None:
        configuration["auth"] = {
            "token": {
                "realm": tokens.realm,
                "service": tokens.service,
                "issuer": tokens.issuer,
                "rootcertbundle": str(tokens.certificate),
            }
        }
    if proxied is not None:
        configuration["proxy"] = {"remoteurl": proxied}
    written = root / "config.yml"
    written.write_text(json.dumps(configuration))  # JSON is YAML
    log = root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(written)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        host = _address(process, log)
        ca_file = None if certificates is None else certificates.ca_file
        yield RunningRegistry(host, root / "storage", log, ca_file, users)
    finally:
        process.kill()
        process.wait()


def _htpasswd(root: Path, users: Mapping[str, str]) -> Path:
    need("htpasswd")
    file = root / "htpasswd"
    file.write_text("")
    for user, password in users.items():
        # -B bcrypt, -C 4 its cheapest cost: the registry checks it at every request.
        subprocess.run(
            ["htpasswd", "-B", "-C", "4", "-i", str(file), user],
            input=password.encode(),
            check=True,
            capture_output=True,
            timeout=60,
        )
    return file


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return the address from the line in which the registry says that it listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace")
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", text)
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"docker-registry did not start: {log.read_text(errors='replace')[-2000:]}")
