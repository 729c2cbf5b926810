"""One module a verb; each has a ``COMMAND``. The register is :mod:`lamina.cli.commands`."""
