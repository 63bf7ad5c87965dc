"""Makes every process with this folder on its path send daily-python to the room server of the tests.

The library is otherwise as it is, and whoever uses it knows nothing of this: each client is told the proxy address
in ``TEST_DAILY_PROXY`` before it is handed over.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

PROXY_VARIABLE = "TEST_DAILY_PROXY"


def redirect(daily: Any, proxy_url: str) -> None:
    """Have the library's clients made with a proxy address."""
    real = daily.CallClient

    def redirected(event_handler: Any = None) -> Any:
        client = real(event_handler=event_handler)
        client.set_proxy_url(proxy_url)
        return client

    daily.CallClient = redirected


class _Redirecting(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "daily":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        loader = spec.loader
        run = loader.exec_module

        def run_and_redirect(module: ModuleType) -> None:
            run(module)
            redirect(module, os.environ[PROXY_VARIABLE])

        loader.exec_module = run_and_redirect  # type: ignore[method-assign]
        return spec


if os.environ.get(PROXY_VARIABLE):
    sys.meta_path.insert(0, _Redirecting())
