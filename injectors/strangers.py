"""Who has files of a service and is no part of it: what is done to them would be done to him as well."""

from collections.abc import Sequence

from .base import Refusal
from .platforms.abilities import Volumes
from .platforms.base import Platform, PlatformError, Target

ADVICE = "name it among the service's components, end it, or give the service a volume of its own"


def refuse_strangers(files: Sequence[tuple[Target, str]], platform: Platform) -> None:
    """Files and folders, each by its real path. Raises Refusal, also where nobody can tell. Who has a file of this machine the agent
    sees by itself; inside a container it sees nobody else's processes.
    """
    if not isinstance(platform, Volumes):
        return
    try:
        who = platform.strangers(files)
    except PlatformError as error:
        raise Refusal(f"not injecting: who else has the volume of {files[0][1]} cannot be told: {error}") from error
    if who:
        raise Refusal(f"not injecting: {who}, and is no part of this service: it would be hit as well; {ADVICE}")
