"""What urllib3, OpenSSL and the system say of a connection that failed, as one line of a lamina error."""

import errno
import os
import socket
import ssl

from lamina.errors import Disconnected, NotTls, RegistryError
from lamina.pool.names import printable

_NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def translated(error: BaseException, host: str, patience: float) -> RegistryError:
    """The error to raise for ``error`` of a connection to ``host``; a ``Disconnected`` where another try may help."""
    from urllib3.exceptions import LocationValueError

    host = printable(host)
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, LocationValueError):
            return RegistryError(f"'{host}' is no name that a host can have")
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = printable(cause.verify_message or str(cause))
            return RegistryError(
                f"cannot trust {host}: {reason}; name its CA with --ca-file, or say --tls-verify=false"
            )
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            if cause.reason in _NO_TLS:
                return NotTls(f"{host} speaks no TLS: say --plain-http if that is as it should be")
            return RegistryError(f"cannot speak TLS with {host}: {printable(str(cause.reason or cause))}")
    for cause in causes:
        if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
            return RegistryError(f"cannot find {_place(causes, host)}: no such host")
    return Disconnected(f"cannot reach {_place(causes, host)}: {_reason(causes, patience)}")


def _place(causes: list[BaseException], host: str) -> str:
    from urllib3 import exceptions

    return f"the proxy to {host}" if any(isinstance(cause, exceptions.ProxyError) for cause in causes) else host


def _reason(causes: list[BaseException], patience: float) -> str:
    from urllib3 import exceptions

    for cause in causes:
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno in errno.errorcode:
            return os.strerror(cause.errno or 0).lower()
    for cause in causes:
        if isinstance(cause, exceptions.ConnectTimeoutError):
            return "no connection in time"
        if isinstance(cause, (exceptions.ReadTimeoutError, TimeoutError)):
            return f"nothing came for {patience:g} s"
        if isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed"):
            return printable(str(cause)[:120]).lower()
    return "the connection was cut"


def _causes(error: BaseException) -> "list[BaseException]":
    """The error and what lies below it: urllib3 keeps causes in several places."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 16:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or any(one is other for other in found):
            continue
        found.append(one)
        waiting += [getattr(one, "reason", None), getattr(one, "original_error", None), one.__cause__]
        waiting += [one.__context__, *one.args]
    return found
