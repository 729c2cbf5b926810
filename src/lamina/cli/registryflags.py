"""The options of verbs that speak to a registry."""

from lamina.cli.command import Arguments, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.oci.registry.options import Options

REGISTRY_FLAGS = (
    Option("", "username", "log in as this user; the password is asked for on a terminal", "name"),
    Option("", "password-stdin", "read the password from standard input"),
    Option(
        *("", "authfile", "take credentials from this file, of the form of ~/.docker/config.json", "file"),
        completes="path",
    ),
    Option("", "plain-http", "speak HTTP without TLS"),
    Option(
        *("", "tls-verify", "false: take any certificate (default true)", "true|false"),
        completes="=true false",
    ),
    Option("", "ca-file", "trust the certificate authorities in this PEM file too", "file", "path"),
    Option("", "cert-dir", "a directory with *.crt of CAs, *.cert and *.key of this client", "directory", "path"),
)


def registry_options_of(arguments: Arguments, host: str) -> "Options":
    """The options for the registry ``host``, as typed; may read the password. Raises ``UsageError``."""
    from lamina.errors import UsageError
    from lamina.oci.registry.options import registry_options

    verify = arguments.value("tls-verify")
    if verify not in (None, "true", "false"):
        raise UsageError(f"invalid value '{verify}' of --tls-verify: true or false is expected")
    return registry_options(
        host,
        username=arguments.value("username"),
        password_stdin=arguments.has("password-stdin"),
        authfile=arguments.value("authfile"),
        plain_http=arguments.has("plain-http"),
        tls_verify=verify != "false",
        ca_file=arguments.value("ca-file"),
        cert_dir=arguments.value("cert-dir"),
        mirrors=arguments.values("mirror"),
    )
