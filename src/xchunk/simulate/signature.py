"""Which tasks do the same: one signature stands for all tasks that differ in contents only.

A signature holds a task's function, its literals with slices reduced to lengths, and what is
known of its inputs. It is written down twice: strictly, and coarsely without the values of
small arrays and numbers, for tasks that differ in these alone.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from xchunk.simulate._dask import AliasNode, ConstantNode, Key, Node, Ref, TaskNode, fused
from xchunk.simulate.standin import Asked, StandIn
from xchunk.simulate.values import Value, value_of

__all__ = ["Signature", "sign"]

Pair: TypeAlias = tuple[Hashable, Hashable]

#: Names of dask's functions that store a block.
_WRITERS = frozenset(("store_chunk", "load_store_chunk"))


@dataclass
class Signature:
    """What one task does, and what it reads."""

    strict: Hashable = ()
    """Equal for tasks that do the same."""
    coarse: Hashable = ()
    """Equal for tasks that may differ in the values of small arrays and numbers."""
    deps: list[Key] = field(default_factory=list)
    """The tasks whose results it takes, in the order in which it names them."""
    reads: list[tuple[StandIn, Asked]] = field(default_factory=list)
    """What it reads of stored arrays."""
    literals: list[Value] = field(default_factory=list)
    """Arrays that it carries itself."""
    opaque: bool = False
    """Whether it takes a stored array in a way that does not tell what it reads."""


def sign(task: TaskNode, values: Mapping[Key, Value]) -> Signature:
    """Write down the signature of a task, given what is known of its inputs."""
    out = _Writer(values)
    strict, coarse = out.task(task, {})
    s = out.signature
    s.strict, s.coarse = strict, coarse
    # stored arrays within fused tasks, and inputs that nothing within names
    s.deps += [k for k in task.dependencies if k not in out.found]
    return s


class _Writer:
    """Walks through one task."""

    def __init__(self, values: Mapping[Key, Value]) -> None:
        self.values = values
        self.signature = Signature()
        self.found: dict[Key, int] = {}

    def task(self, task: Any, scope: Mapping[Key, Any]) -> Pair:
        inside = fused(task)
        if inside is not None:
            return self._fused(inside, scope)
        pairs: list[Pair] = []
        args = task.args
        stored = self._stored(args[0], scope) if len(args) > 1 else None
        if stored is not None:
            index = self._constant(args[1], scope)
            if index is not None:
                asked = stored.ask(index)
                self.signature.reads.append((stored, asked))
                own: Hashable = ("read", id(stored), asked.shape, asked.counts)
                pairs.append((own, own))
                args = args[2:]
        function = _function(task.func)
        opaque = self.signature.opaque
        pairs += [self.visit(a, scope) for a in args]
        if getattr(task.func, "__name__", "") in _WRITERS:
            # they name stored arrays to write to them
            self.signature.opaque = opaque
        names = tuple(task.kwargs)
        for name, value in task.kwargs.items():
            strict, coarse = self.visit(value, scope)
            # what tells a function which block it has differs from block to block
            pairs.append((strict, "block" if name in ("block_id", "block_info") else coarse))
        head = (type(task).__name__, function, names)
        return (head, tuple(p[0] for p in pairs)), (head, tuple(p[1] for p in pairs))

    def _fused(self, inside: Any, scope: Mapping[Key, Any]) -> Pair:
        own: dict[Key, Any] = {}
        for name, outer in inside.renamed.items():
            own[name] = ("outer", outer, scope)
        for i, name in enumerate(inside.inner):
            own[name] = ("inner", i, inside.inner[name])
        pairs = [self.visit_node(node, own) for node in inside.inner.values()]
        last = own.get(inside.output, ("inner", -1))[1]
        return (
            ("fused", last, tuple(p[0] for p in pairs)),
            ("fused", last, tuple(p[1] for p in pairs)),
        )

    def visit_node(self, node: Any, scope: Mapping[Key, Any]) -> Pair:
        if isinstance(node, ConstantNode):
            return self.visit(node.value, scope)
        if isinstance(node, AliasNode):
            return self._ref(node.target, scope)
        return self.task(node, scope)

    def visit(self, obj: Any, scope: Mapping[Key, Any]) -> Pair:
        if isinstance(obj, Ref):
            return self._ref(obj.key, scope)
        if isinstance(obj, Node):
            return self.visit_node(obj, scope)
        if isinstance(obj, slice):
            own = _length(obj)
            return own, own
        if isinstance(obj, dict):
            pairs = [self.visit(v, scope) for v in obj.values()]
            head = ("dict", tuple(map(repr, obj)))
            return (head, tuple(p[0] for p in pairs)), (head[0], tuple(p[1] for p in pairs))
        if isinstance(obj, list | tuple):
            return self._sequence(obj, scope)
        if isinstance(obj, StandIn):
            self.signature.opaque = True
        if callable(obj) and not isinstance(obj, type):
            own = _function(obj)
            return own, own
        value = value_of(obj)
        if value.nbytes:
            self.signature.literals.append(value)
        return value.strict, value.coarse

    def _sequence(self, obj: Any, scope: Mapping[Key, Any]) -> Pair:
        pairs = [self.visit(v, scope) for v in obj]
        strict = tuple(p[0] for p in pairs)
        head = type(obj).__name__
        if any(isinstance(v, slice | np.ndarray) for v in obj):
            # an index: which element it takes makes no difference to what it costs
            strict = tuple("i" if type(v) is int else p for v, p in zip(obj, strict, strict=True))
            return (head, strict), (head, tuple(p[1] for p in pairs))
        if all(type(v) is int for v in obj):
            # a shape, most likely
            return (head, strict), (head, strict)
        return (head, strict), (head, tuple(p[1] for p in pairs))

    def _ref(self, key: Key, scope: Mapping[Key, Any]) -> Pair:
        found = scope.get(key)
        if found is not None:
            if found[0] == "inner":
                own = ("in", found[1])
                return own, own
            return self.visit(found[1], found[2])
        value = self.values[key]
        at = self.found.get(key)
        if at is None:
            at = self.found[key] = len(self.signature.deps)
            self.signature.deps.append(key)
        if isinstance(value.template, StandIn):
            self.signature.opaque = True
        return (at, value.strict), (at, value.coarse)

    def _resolve(self, obj: Any, scope: Mapping[Key, Any]) -> Any:
        """The constant that an argument stands for, or None."""
        while True:
            if isinstance(obj, Ref | AliasNode):
                key = obj.key if isinstance(obj, Ref) else obj.target
                found = scope.get(key)
                if found is None:
                    value = self.values.get(key)
                    return None if value is None else value.template
                obj, scope = (found[2], scope) if found[0] == "inner" else (found[1], found[2])
            elif isinstance(obj, ConstantNode):
                return obj.value
            else:
                return obj

    def _stored(self, obj: Any, scope: Mapping[Key, Any]) -> StandIn | None:
        found = self._resolve(obj, scope)
        if not isinstance(found, StandIn):
            return None
        if isinstance(obj, Ref) and obj.key not in scope and obj.key not in self.found:
            self.found[obj.key] = len(self.signature.deps)
            self.signature.deps.append(obj.key)
        return found

    def _constant(self, obj: Any, scope: Mapping[Key, Any]) -> Any:
        found = self._resolve(obj, scope)
        if isinstance(found, TaskNode):
            if found.dependencies:
                return None
            found = found({})
        if isinstance(found, tuple) and not any(isinstance(k, Node | Ref) for k in found):
            return found
        return found if isinstance(found, slice) else None


def _length(s: slice) -> Hashable:
    """Reduce a slice to its length, so that blocks at other places look alike."""
    start, stop = s.start, s.stop
    if isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop:
        return ("slice", stop - start, s.step)
    return ("slice", repr(s))


def _function(function: Any) -> Hashable:
    if isinstance(function, functools.partial):
        literal = tuple(_literal(a) for a in function.args)
        named = tuple((k, _literal(v)) for k, v in function.keywords.items())
        return ("partial", _function(function.func), literal, named)
    chain = getattr(function, "funcs", None)
    if isinstance(chain, tuple) and hasattr(function, "first"):
        return ("compose", _function(function.first), tuple(map(_function, chain)))
    code = getattr(function, "__code__", None)
    if code is not None and not getattr(function, "__closure__", None):
        return ("f", id(code))
    return ("f", id(function))


def _literal(value: Any) -> Hashable:
    return _function(value) if callable(value) else value_of(value).strict
