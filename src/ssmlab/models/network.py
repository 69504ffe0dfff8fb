"""Whether a server answers, found in seconds: the hub's client tries for 23 s before it says that there is no network.

Everything goes through the hub's client, so that proxies, certificates, HF_ENDPOINT and HF_HUB_OFFLINE are the user's.
"""

from __future__ import annotations

import os
import threading

PATIENCE = 2.0  # seconds for an answer; HF_HUB_ETAG_TIMEOUT is the user's number
_ANSWERED: set[str] = set()  # the servers that have answered this process


def answer(address: str, *, follow: bool = False) -> int:
    """Ask for an address once, and return the status of the answer.

    Args:
        follow: go where the address leads.
    Raises:
        OSError: there is no answer, or the network is switched off.
    """
    from huggingface_hub.utils import get_session

    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or PATIENCE)
    found: list[int] = []
    failed: list[Exception] = []

    def ask() -> None:
        try:
            found.append(get_session().head(address, timeout=2 * seconds, follow_redirects=follow).status_code)
        except Exception as error:  # raised below, in the caller's thread
            failed.append(error)

    # The client's limit holds for each address of a name, and for none of its look-ups; waiting for a thread ends in
    # time. The client's is longer, and lets the thread end soon after.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise ConnectionError(str(failed[0]) or type(failed[0]).__name__) from failed[0]
    if not found:
        raise TimeoutError(f"no answer within {seconds:g} s; HF_HUB_ETAG_TIMEOUT=30 waits for 30")
    return found[0]


def check_hub(repository: str, address: str) -> None:
    """Whether the server of a repository's file answers, with whatever, or has done so before.

    Raises:
        OSError: it does not.
    """
    from huggingface_hub import constants

    server = address.partition(f"/{repository}/")[0]
    if server not in _ANSWERED and not constants.is_offline_mode():  # the client knows that itself
        answer(address)
        _ANSWERED.add(server)
