"""The plugins of one storage: found through entry points, checked before anything runs, listed."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from pluggy import HookCaller, HookImpl, PluginManager, Result

from vstorage_core import hookspecs
from vstorage_core.errors import PluginConflictError, PluginError
from vstorage_core.hookspecs import PROJECT

ENTRY_POINT_GROUP = "vstorage.plugins"
DISABLED_VARIABLE = "VSTORAGE_DISABLED_PLUGINS"
TRACE_VARIABLE = "VSTORAGE_TRACE_PLUGINS"
CORE = "vstorage-core"

logger = logging.getLogger("vstorage.hooks")

T = TypeVar("T")


class LoadedPlugin(NamedTuple):
    """One plugin and where it comes from."""

    name: str
    plugin: object
    distribution: str | None
    version: str | None
    hooks: tuple[str, ...]

    def __str__(self) -> str:
        origin = f" ({self.distribution} {self.version})" if self.distribution else ""
        return f"plugin {self.name!r}{origin}"


class PluginRegistry:
    """Loads plugins, refuses what cannot work, and calls their hooks in a fixed order.

    Args:
        plugins: Plugins given as objects, beside the installed ones; named after their module or class.
        entry_points: The installed candidates; by default those of the group `vstorage.plugins`.

    Attributes:
        implemented: Names of the hooks that a plugin waits for.
        routes: What the plugins serve on web applications, as `GET /path`, by plugin name.

    Raises:
        PluginError: A plugin is made for another core, cannot be imported, is a class, is async, or implements an
            unknown hook or argument.
    """

    def __init__(
        self,
        plugins: Iterable[object] = (),
        *,
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    ) -> None:
        self._manager = PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.hook = self._manager.hook
        if entry_points is None:
            entry_points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        candidates = [*_load_installed(entry_points), *(_from_object(plugin) for plugin in plugins)]
        self.loaded = self._register(candidates)
        self.implemented = {hook_name for plugin in self.loaded for hook_name in plugin.hooks}
        self._separate_callers: dict[str, list[tuple[LoadedPlugin, HookCaller]]] = {}
        self.routes: dict[str, tuple[str, ...]] = {}
        if os.environ.get(TRACE_VARIABLE, "0") not in ("", "0"):
            _trace(self._manager)

    def _register(self, candidates: list[LoadedPlugin]) -> list[LoadedPlugin]:
        by_name: dict[str, LoadedPlugin] = {}
        for candidate in candidates:
            other = by_name.setdefault(candidate.name, candidate)
            if other is not candidate:
                raise PluginConflictError(
                    f"{candidate} has the same name as {other}; uninstall one of them or rename its entry point"
                )
        # Specs first: a plugin may implement the hooks of another one.
        for candidate in candidates:
            own_specs = getattr(candidate.plugin, "hookspecs", None)
            if own_specs is not None:
                self._manager.add_hookspecs(own_specs)
        checked = [
            candidate._replace(hooks=self._check(candidate))
            for candidate in sorted(candidates, key=lambda candidate: candidate.name)
        ]
        # pluggy calls the plugin registered last first, so reversed names run A…Z.
        for candidate in reversed(checked):
            self._manager.register(candidate.plugin, candidate.name)
        return checked

    def _check(self, candidate: LoadedPlugin) -> tuple[str, ...]:
        """Names of the implemented hooks; raises PluginError for what pluggy would only trip over when calling."""
        plugin = candidate.plugin
        if inspect.isclass(plugin):
            raise PluginError(f"{candidate} is the class {plugin.__name__}; register an instance of it")
        known = vars(self._manager.hook)
        hooks = []
        for name in dir(plugin):
            options = self._manager.parse_hookimpl_opts(plugin, name)
            function = getattr(plugin, name, None)
            if options is None:
                if name in known and inspect.isroutine(function) and not hasattr(function, f"{PROJECT}_spec"):
                    raise PluginError(f"{candidate}: {name} is not marked; decorate it with @hookimpl")
                continue
            hook_name = options.get("specname") or name
            caller = known.get(hook_name)
            if caller is None or caller.spec is None:
                if options.get("optionalhook"):
                    continue
                raise PluginError(
                    f"{candidate} implements the unknown hook {hook_name}; it may be misspelled, or belong to a plugin"
                    f" that is not installed (then mark it @hookimpl(optionalhook=True)); {_way_out(candidate)}"
                )
            _check_signature(candidate, name, function, caller.spec.argnames)
            hooks.append(hook_name)
        return tuple(sorted(hooks))

    def collect(self, hook_name: str, kind: type[T] | None = None, **arguments: Any) -> list[tuple[LoadedPlugin, T]]:
        """Everything that the plugins return from a `register_*` hook, each with the plugin it came from.

        Raises:
            PluginError: A plugin returns something that is not iterable or not of `kind`.
        """
        found: list[tuple[LoadedPlugin, T]] = []
        for plugin, call in self.separately(hook_name):
            for items in call(**arguments):
                try:
                    contributed = list(items)
                except TypeError:
                    raise PluginError(f"{plugin}: {hook_name} must return an iterable, not {items!r}") from None
                for item in contributed:
                    if kind is not None and not isinstance(item, kind):
                        raise PluginError(f"{plugin}: {hook_name} must give {kind.__name__} objects, not {item!r}")
                    found.append((plugin, item))
        return found

    def separately(self, hook_name: str) -> list[tuple[LoadedPlugin, HookCaller]]:
        """One caller per plugin that implements the hook, in order, so that one plugin's failure stays its own."""
        if hook_name not in self._separate_callers:
            implementing = [plugin for plugin in self.loaded if hook_name in plugin.hooks]
            self._separate_callers[hook_name] = [
                (
                    plugin,
                    self._manager.subset_hook_caller(
                        hook_name, [other.plugin for other in implementing if other is not plugin]
                    ),
                )
                for plugin in implementing
            ]
        return self._separate_callers[hook_name]


def routes_of(router: Any) -> Iterator[tuple[str, str]]:
    """Method and path of each route; the method of what has none, e.g. a websocket, is `*`."""
    for route in getattr(router, "routes", ()):
        # From 0.137 on FastAPI keeps the routers that a router includes as a tree.
        inner = getattr(route, "effective_route_contexts", None)
        for found in [route] if inner is None else [context.starlette_route or context for context in inner()]:
            for method in sorted(getattr(found, "methods", None) or ("*",)):
                yield method, found.path


def refuse_duplicates(
    what: str, contributed: Iterable[tuple[LoadedPlugin, T]], key: Callable[[T], str]
) -> dict[str, T]:
    """The contributions by `key`.

    Raises:
        PluginConflictError: Two plugins provide the same key; the message names both.
    """
    providers: dict[str, LoadedPlugin] = {}
    found: dict[str, T] = {}
    for plugin, item in contributed:
        name = key(item)
        if name in found:
            raise PluginConflictError(
                f"{what} {name!r} is provided by both {providers[name]} and {plugin};"
                f" disable one with {DISABLED_VARIABLE}={plugin.name}"
            )
        providers[name], found[name] = plugin, item
    return found


def _load_installed(entry_points: Iterable[importlib.metadata.EntryPoint]) -> list[LoadedPlugin]:
    disabled = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",")}
    loaded = []
    for entry_point in sorted(entry_points, key=lambda entry_point: entry_point.name):
        if entry_point.name in disabled:
            continue
        # Read once: the distribution's own properties read its file each time.
        metadata = entry_point.dist.metadata if entry_point.dist else None
        plugin = LoadedPlugin(
            name=entry_point.name,
            plugin=None,
            distribution=metadata["Name"] if metadata else None,
            version=metadata["Version"] if metadata else None,
            hooks=(),
        )
        if metadata:
            _require_this_core(plugin, metadata.get_all("Requires-Dist") or ())
        try:
            loaded.append(plugin._replace(plugin=entry_point.load()))
        # A plugin may fail in any way while it is imported; whoever starts the machine must learn which one it was.
        except Exception as error:
            raise PluginError(
                f"{plugin} cannot be imported from {entry_point.value!r}: {type(error).__name__}: {error};"
                f" {_way_out(plugin)}"
            ) from error
    return loaded


def _require_this_core(plugin: LoadedPlugin, requirements: Iterable[str]) -> None:
    """Refuse a plugin whose distribution requires another core: installers do not always see to it."""
    running = _running_core()
    for text in requirements:
        # Of our own plugins this is all, and `packaging` takes half as long as the core to be imported.
        if text == f"{CORE}=={running}" or not re.sub("[-_.]+", "-", text).lower().startswith(CORE):
            continue
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name

        required = Requirement(text)
        if (
            canonicalize_name(required.name) == CORE
            and (required.marker is None or required.marker.evaluate({"extra": ""}))
            and not required.specifier.contains(running, prereleases=True)
        ):
            raise PluginError(
                f"{plugin} is made for {CORE} {required.specifier}, but this is {CORE} {running};"
                f" install versions that fit, or set {DISABLED_VARIABLE}={plugin.name} to start without it"
            )


@functools.cache
def _running_core() -> str:
    return importlib.metadata.version(CORE)


def _trace(manager: PluginManager) -> None:
    """Log each hook call with its time, also where the application has not set logging up."""
    logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        logger.addHandler(logging.StreamHandler())
    begun: dict[int, float] = {}

    def before(hook_name: str, hook_impls: Sequence[HookImpl], arguments: Mapping[str, object]) -> None:
        begun[id(arguments)] = perf_counter()

    def after(
        outcome: Result[object], hook_name: str, hook_impls: Sequence[HookImpl], arguments: Mapping[str, object]
    ) -> None:
        milliseconds = (perf_counter() - begun.pop(id(arguments))) * 1000
        if hook_impls:
            # pluggy calls the last one first, and gives what is called along no name of its own.
            names = ", ".join(
                "a decorator" if impl.plugin is None else impl.plugin_name for impl in reversed(hook_impls)
            )
            ending = f", raised {outcome.exception!r}" if outcome.exception else ""
            logger.info("%s took %.3f ms in %s%s", hook_name, milliseconds, names, ending)

    manager.add_hookcall_monitoring(before, after)


def _from_object(plugin: object) -> LoadedPlugin:
    name = plugin.__name__ if isinstance(plugin, ModuleType | type) else type(plugin).__name__
    return LoadedPlugin(name=name, plugin=plugin, distribution=None, version=None, hooks=())


def _check_signature(candidate: LoadedPlugin, name: str, function: Any, known: tuple[str, ...]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{candidate}: {name} is async; hooks are plain functions. {_way_out(candidate)}")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise PluginError(f"{candidate}: {name} must take plain arguments, not {parameter}")
        if parameter.name not in known:
            raise PluginError(
                f"{candidate}: {name} has the unknown argument {parameter.name!r}; it may name {', '.join(known)}"
            )


def _way_out(plugin: LoadedPlugin) -> str:
    if plugin.distribution is None:
        return "take it out of the storage's plugins to start without it"
    return f"upgrade {plugin.distribution}, or set {DISABLED_VARIABLE}={plugin.name} to start without it"
