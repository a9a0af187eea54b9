"""Every error a user can meet.

An error says what went wrong and with which thing (``str(error)``), and what to do next (``hint``).
The core raises; ``baker.cli`` turns it into a message and the exit code. Nothing else exits.
"""

from __future__ import annotations


class BakerError(Exception):
    """A failure with something to say to the user. Exit code 1.

    It is ``passing`` where the same may well succeed a moment later: a bake that fails of it is tried again.
    """

    exit_code = 1
    passing = False

    def __init__(self, message: str, *, hint: str | None = None, passing: bool | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if passing is not None:
            self.passing = passing


class UsageError(BakerError):
    """The command line asks for something that does not exist or does not go together."""

    exit_code = 2


class SettingsError(BakerError):
    """``baker.toml`` or a ``BAKER_*`` variable is wrong."""

    exit_code = 2


class RecipeError(BakerError):
    """A recipe is wrong. The message starts with ``FILE:LINE:`` where a line is known."""


class RecipeNotFound(RecipeError):
    """No recipe has this name."""

    exit_code = 2


class BadReference(UsageError):
    """A reference is malformed, names nothing, or names more than one thing."""


class HostError(BakerError):
    """This machine lacks something that the command needs: a tool, a right, a kernel feature, disk."""


class SourceError(BakerError):
    """What a bake starts from cannot be resolved or fetched."""


class MachineError(BakerError):
    """A machine did not start, died, or cannot be reached."""


class MachineReclaimed(MachineError):
    """The provider took the machine back (a spot instance)."""

    passing = True


class CloudError(BakerError):
    """A cloud refused a call or did not answer; the message names the call and, for a right, the action."""


class CommandFailed(BakerError):
    """A command that had to succeed did not."""

    def __init__(
        self, message: str, *, exit_status: int | None, stderr_tail: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail


class CommandTimeout(BakerError):
    """A command ran longer than it may; it and everything it started is gone."""


class StageTimeout(BakerError):
    """A stage of a bake took longer than its limit, and was broken off."""


class ConfigureError(BakerError):
    """The recipe failed on the build instance: its own exception, a failing operation, a time-out."""


class ImageTestError(BakerError):
    """The image tests did not pass, or could not be run."""


class StoreError(BakerError):
    """The local store is damaged or does not hold what the catalog says."""


class CatalogError(BakerError):
    """The catalog cannot be read or written."""


class CatalogMissing(CatalogError):
    """There is no catalog yet, or its first command is about to make it."""


class ConflictError(CatalogError):
    """Somebody else changed it first; nothing of this command was applied."""


class EnvironmentFileError(BakerError):
    """A file of environments/, or what it names, is wrong; one line per problem."""


class EnvironmentNotFound(EnvironmentFileError):
    """No file of environments/ has this name."""

    exit_code = 2


class DeployError(BakerError):
    """A deployment was taken back: a machine did not become or stay healthy, or its image was revoked."""


class GateError(CatalogError):
    """A channel's gate misses something; the channel was not moved."""


class Interrupted(BakerError):
    """Ctrl-C or SIGTERM: everything was cleaned up."""

    exit_code = 130
