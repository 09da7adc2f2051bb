"""Which tasks do the same: tasks that differ in contents only share a signature.

Results are replaced by templates: large arrays by their shape and dtype, small ones and all
other objects by themselves, since positions and lengths decide what later tasks do.

A signature holds a task's function, its literals with slices reduced to lengths, and what is
known of its inputs. It is written down twice: strictly, and coarsely without the values of
small arrays and numbers, for tasks that differ in these alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xchunk.simulate.dask_adapter import AliasNode, ConstantNode, Key, Node, Ref, TaskNode, fused
from xchunk.simulate.standin import Asked, StandIn, noise

#: Bytes of an array up to which its content is kept.
_SMALL = 16_384

#: Items of a list or dict beyond which it is one object, whatever it holds.
_MANY = 10_000


@dataclass(frozen=True)
class Hole:
    """Where an array was."""

    shape: tuple[int, ...]
    """Elements along each dim."""
    dtype: np.dtype[Any]
    """Its dtype."""
    order: tuple[int, ...] | None = None
    """Its dims from the slowest to the fastest in memory; None: as they are."""
    gaps: bool = False
    """Whether it is a part of a larger array, so that a reshape has to copy it."""
    stretched: tuple[int, ...] = ()
    """Dims along which one element stands for all."""

    @classmethod
    def of(cls, array: NDArray[Any]) -> Hole:
        """Describe an array; how it lies in memory decides what has to be copied."""
        if array.flags.c_contiguous:
            return cls(array.shape, array.dtype)
        sizes = zip(array.shape, array.strides, strict=True)
        stretched = tuple(i for i, (n, step) in enumerate(sizes) if step == 0 and n > 1)
        order = tuple(sorted(range(array.ndim), key=lambda i: -abs(array.strides[i])))
        if stretched:
            return cls(array.shape, array.dtype, order, False, stretched)
        gaps = not array.transpose(order).flags.c_contiguous
        return cls(array.shape, array.dtype, order, gaps)

    def filled(self) -> NDArray[Any]:
        """Make such an array of noise."""
        if self.order is None:
            return noise(self.shape, self.dtype)
        real = tuple(1 if i in self.stretched else n for i, n in enumerate(self.shape))
        shape = [real[i] for i in self.order]
        if self.gaps and shape:
            made = noise((*shape[:-1], shape[-1] + 1), self.dtype)[..., :-1]
        else:
            made = noise(tuple(shape), self.dtype)
        made = made.transpose(np.argsort(self.order))
        return np.broadcast_to(made, self.shape) if self.stretched else made


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of one result."""

    template: Any
    """The result with holes for its arrays."""
    strict: Hashable
    """Equal where tasks cannot tell results apart but by large arrays' contents."""
    coarse: Hashable
    """The same without the contents of small arrays and the values of numbers."""
    nbytes: int
    """Bytes of its arrays."""
    known: bool = True
    """Whether it is of a task that was run; otherwise its size is a guess."""


def value_of(result: Any) -> Value:
    """Describe a result, or a constant of the graph."""
    template, strict, coarse, nbytes = _describe(result)
    return Value(template, strict, coarse, nbytes)


def spread(values: Iterable[Value]) -> int:
    """Bytes of an array that several broadcast to; 0 where they cannot."""
    arrays = [v.template for v in values if isinstance(v.template, Hole | np.ndarray)]
    try:
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        return 0
    return math.prod(shape) * max((a.dtype.itemsize for a in arrays), default=0)


def resized(value: Value, nbytes: int) -> Value:
    """Describe a result like another one that takes so many bytes, as a guess."""
    hole = value.template
    if isinstance(hole, Hole) and hole.shape and value.nbytes:
        first = max(1, round(hole.shape[0] * nbytes / value.nbytes))
        hole = replace(hole, shape=(first, *hole.shape[1:]))
        size = math.prod(hole.shape) * hole.dtype.itemsize
        return Value(hole, hole, hole, size, known=False)
    return replace(value, known=False)


def _describe(obj: Any) -> tuple[Any, Hashable, Hashable, int]:
    if isinstance(obj, np.ndarray):
        coarse: Hashable = ("a", obj.shape, obj.dtype.str, type(obj).__name__)
        if obj.nbytes > _SMALL and type(obj) is np.ndarray:
            hole = Hole.of(obj)
            return hole, hole, hole, obj.nbytes
        if obj.dtype.kind in "iubmM":
            return obj, (coarse, obj.tobytes()), coarse, obj.nbytes
        return obj, coarse, coarse, obj.nbytes
    if isinstance(obj, StandIn):
        return obj, ("stored", id(obj)), ("stored", id(obj)), 0
    if isinstance(obj, list | tuple | dict) and len(obj) <= _MANY:
        return _container(obj)
    if isinstance(obj, bool | str | bytes | type(None) | np.dtype | type):
        return obj, ("v", obj), ("v", obj), 0
    if isinstance(obj, int | float | complex | np.generic):
        # NaN differs from itself
        return obj, ("n", type(obj), repr(obj)), ("n", type(obj)), 0
    if isinstance(obj, slice):
        own = ("slice", repr(obj))
        return obj, own, own, 0
    return obj, ("o", id(obj)), ("o", type(obj)), _nbytes(obj)


def _container(obj: Any) -> tuple[Any, Hashable, Hashable, int]:
    values = list(obj.values()) if isinstance(obj, dict) else list(obj)
    parts = [_describe(v) for v in values]
    keys = tuple(map(repr, obj)) if isinstance(obj, dict) else ()
    templates = [p[0] for p in parts]
    template: Any
    if isinstance(obj, dict):
        template = dict(zip(obj, templates, strict=True))
    elif type(obj) in (list, tuple):
        template = type(obj)(templates)
    else:
        # a named tuple, or something else that is made in its own way
        template = type(obj)(*templates) if hasattr(obj, "_fields") else obj
    head = (type(obj).__name__, keys)
    strict = (head, tuple(p[1] for p in parts))
    coarse = (head, tuple(p[2] for p in parts))
    return template, strict, coarse, sum(p[3] for p in parts)


def _nbytes(obj: Any) -> int:
    nbytes = getattr(obj, "nbytes", 0)
    return int(nbytes) if isinstance(nbytes, int | np.integer) else 0


def filled(template: Any) -> Any:
    """Make a result of a template, with noise in its holes."""
    if isinstance(template, Hole):
        return template.filled()
    if type(template) is dict:
        return {k: filled(v) for k, v in template.items()}
    if type(template) in (list, tuple):
        return type(template)(filled(v) for v in template)
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*(filled(v) for v in template))
    if isinstance(template, np.ndarray):
        return template.copy()
    return template


def arrays_in(result: Any, depth: int = 0) -> Iterator[NDArray[Any]]:
    """All arrays within a result."""
    if isinstance(result, np.ndarray):
        yield result
    elif isinstance(result, dict) and depth < 8:
        for v in result.values():
            yield from arrays_in(v, depth + 1)
    elif isinstance(result, list | tuple) and depth < 8:
        for v in result:
            yield from arrays_in(v, depth + 1)
    elif hasattr(result, "variables") and hasattr(result, "data_vars"):
        # a Dataset that a task of xarray's map_blocks hands over
        for v in result.variables.values():
            yield from arrays_in(v.data, depth + 1)
    elif type(result).__name__ in ("Variable", "DataArray"):
        yield from arrays_in(result.data, depth + 1)


def root_of(array: NDArray[Any]) -> Any:
    """The object that owns an array's memory."""
    root: Any = array
    while isinstance(root, np.ndarray) and root.base is not None:
        root = root.base
    return root


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
