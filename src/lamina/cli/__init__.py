"""The command line: words typed by people; tables, progress, JSON.

``lamina VERB ...`` with the verbs, flags and exit statuses of ``zfs`` and ``zpool``. Nothing here is imported before
it is needed: each verb lies in its own module in :mod:`lamina.cli.verbs`, and verbs that need no pool load none.
"""

from lamina.cli.entry import main

__all__ = ["main"]
