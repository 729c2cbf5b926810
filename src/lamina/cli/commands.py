"""The register of verbs: which module holds each and what it does in a line. Importing it imports no verb."""

from importlib import import_module

from lamina.cli.command import Command

COMMANDS: dict[str, tuple[str, str]] = {
    "create": ("create", "create a dataset"),
    "destroy": ("destroy", "destroy datasets, snapshots or a bookmark"),
    "snapshot": ("snapshot", "take snapshots"),
    "rollback": ("rollback", "take a dataset back to a snapshot"),
    "clone": ("clone", "make a dataset that begins as a snapshot"),
    "promote": ("promote", "make a clone the owner of the snapshots it comes from"),
    "hold": ("hold", "keep snapshots from being destroyed"),
    "release": ("release", "take holds away"),
    "holds": ("holds", "list holds"),
    "bookmark": ("bookmark", "remember a snapshot without keeping it"),
    "rename": ("rename", "rename a dataset or a snapshot"),
    "send": ("send", "write a snapshot, or what changed since another, as a stream"),
    "receive": ("receive", "read a stream that 'lamina send' wrote into a pool"),
    "sync": ("sync", "bring a dataset here or on another host up to date, sending only what is not there"),
    "prune": ("prune", "destroy old snapshots by rules of what to keep"),
    "diff": ("diff", "show what differs between a snapshot and another state"),
    "list": ("list", "list datasets, snapshots and images with their space"),
    "get": ("get", "show properties and where their values come from"),
    "set": ("set", "set properties"),
    "inherit": ("inherit", "clear a property, so that it is inherited"),
    "mount": ("mount", "mount a snapshot, a dataset or a whole pool; list mounts"),
    "unmount": ("unmount", "undo a mount"),
    "image import": ("image_import", "take container images into the pool"),
    "image pull": ("image_pull", "pull an image from a registry"),
    "image export": ("image_export", "write an image into a file for other programs"),
    "image push": ("image_push", "push an image to a registry"),
    "image migrate": ("image_migrate", "move the images of an engine, a layout or a folder of archives into the pool"),
    "image list": ("image_list", "list images and what each one costs"),
    "image inspect": ("image_inspect", "show what an image is: digest, labels, layers, environment"),
    "image history": ("image_history", "show how an image was made, step by step"),
    "image layers": ("image_layers", "list the layers of an image and what they take"),
    "image du": ("image_du", "add up what images take, by repository"),
    "image tag": ("image_tag", "give an image another name"),
    "image rm": ("image_rm", "remove images"),
    "image verify": ("image_verify", "compare an image with a directory, byte for byte"),
    "pool create": ("pool_create", "make a directory a pool"),
    "pool list": ("pool_list", "list pools and their space"),
    "pool status": ("pool_status", "show the state of pools"),
    "pool gc": ("pool_gc", "free what nothing refers to any more"),
    "pool get": ("pool_get", "show properties of a pool"),
    "pool export": ("pool_export", "give a pool up, so that its directory can be moved"),
    "pool import": ("pool_import", "take in a pool that was exported, moved or copied"),
    "pool check": ("pool_check", "compare a pool's catalogue, packs, trees and names with each other"),
    "pool recover": ("pool_recover", "rebuild a pool's catalogue from its packs"),
    "pool upgrade": ("pool_upgrade", "bring pools of an older lamina up to date"),
    "pool history": ("pool_history", "show which commands have changed a pool"),
    "pool set": ("pool_set", "set a property of a pool"),
    "pool destroy": ("pool_destroy", "destroy a pool with all that is in it"),
    "pool scrub": ("pool_scrub", "verify all data, mend what is damaged"),
    "pool clear": ("pool_clear", "forget the counts of errors"),
    "version": ("version", "show the version"),
    "help": ("help", "show the manual of a verb"),
    "completion": ("completion", "print a completion script for a shell"),
}
"""Verb (one word or two) to module and summary, in the order of ``lamina help``."""

ALIASES = {"umount": "unmount", "image ls": "image list", "ls": "list", "snap": "snapshot", "recv": "receive"}

HIDDEN = {"__complete": "complete", "__scrub": "scrub_process", "__objects": "serve_objects", "__sync": "serve_sync"}
"""Verbs that programs call, not people."""

GROUPS = ("image", "pool")
"""First words that need a second one."""


def load(verb: str) -> Command:
    """Import the module of a verb (its full name, not an alias) and return its Command."""
    module = HIDDEN[verb] if verb in HIDDEN else COMMANDS[verb][0]
    command = import_module(f"lamina.cli.verbs.{module}").COMMAND
    assert isinstance(command, Command)
    return command


def resolve(words: list[str]) -> tuple[str, list[str]] | None:
    """Split ``["image", "import", "-q"]`` into ``("image import", ["-q"])``; None when no verb matches."""
    for count in (2, 1):
        verb = " ".join(words[:count])
        verb = ALIASES.get(verb, verb)
        if len(words) >= count and (verb in COMMANDS or verb in HIDDEN):
            return verb, words[count:]
    return None
