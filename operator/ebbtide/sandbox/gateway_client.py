"""Asks the gateway of a running sandbox over its control port; knows no load and no results, only how to ask."""

import json
import urllib.error
import urllib.request
from typing import Any

from ebbtide.errors import ConfigurationError, NotFoundError, SandboxError
from ebbtide.sandbox.state import State

_TIMEOUT_S = 30.0


def ask(state: State, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """The gateway's JSON answer. What it refuses is a ConfigurationError, what it does not know a NotFoundError."""
    if not state.gateway_url:
        raise NotFoundError(f"sandbox {state.name} has no emulator: start it again without --no-emulator")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is never reached through a proxy
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{state.gateway_url}{path}", data=data, method=method)
    try:
        with direct.open(request, timeout=_TIMEOUT_S) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        kind = NotFoundError if error.code == 404 else ConfigurationError
        raise kind(f"the gateway refuses {method} {path}: {said}") from error
    except OSError as error:
        raise SandboxError(f"the gateway of sandbox {state.name} does not answer at {state.gateway_url}") from error
    return found
