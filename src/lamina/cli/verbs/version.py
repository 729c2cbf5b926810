"""``lamina version``."""

from lamina.cli.command import JSON, Arguments, Command
from lamina.errors import UsageError


def run(arguments: Arguments) -> int:
    """Print the version."""
    if arguments.operands:
        raise UsageError("too many arguments")
    version = _version()
    if arguments.has("json"):
        import json
        import platform

        document = {
            "output_version": {"command": "lamina version", "vers_major": 0, "vers_minor": 1},
            "lamina_version": version,
            "python_version": platform.python_version(),
            "kernel": platform.release(),
        }
        print(json.dumps(document, separators=(",", ":")))
    else:
        print(f"lamina-{version}")
    return 0


def _version() -> str:
    import lamina

    version = getattr(lamina, "__version__", None)
    if isinstance(version, str):
        return version
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("lamina")
    except PackageNotFoundError:
        return "unknown"


COMMAND = Command(
    name="version",
    synopsis=("version [-j]",),
    summary="show the version",
    description="""
Shows the version of lamina.""",
    options=(JSON,),
    run=run,
)
