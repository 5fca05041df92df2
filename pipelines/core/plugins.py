"""Folders in which a file is its own registration: its name is valid in a study."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from functools import cache
from types import ModuleType
from typing import NamedTuple

from pipelines.core.errors import ConfigError


class Folder(NamedTuple):
    """One folder of plug-ins; stands in its `__init__.py` as `Folder(__name__, ...)`."""

    package: str
    what: str
    """One of them, in words."""
    parts: tuple[str, ...] = ()
    """Modules there that plug-ins are made from."""

    def names(self) -> list[str]:
        """All plug-ins, in alphabetical order."""
        modules = pkgutil.iter_modules(sys.modules[self.package].__path__)
        return sorted(module.name for module in modules if module.name not in self.parts)

    def load(self, name: str) -> ModuleType:
        """Import one.

        Raises:
            ConfigError: there is no such file.
        """
        return _loaded(self, name)


@cache
def _loaded(folder: Folder, name: str) -> ModuleType:
    names = folder.names()
    if name not in names:
        path = folder.package.replace(".", "/")
        raise ConfigError(f"unknown {folder.what} {name!r}; {path}/ has: {', '.join(names)}")
    return importlib.import_module(f"{folder.package}.{name}")
