"""Files put together as one Dataset, whose blocks may span files whatever their layouts are.

xarray decides how files fit together. It is given stand-ins, in which each variable of file
``i`` holds nothing but ``i``: the result tells which file lies where, and each variable is
then built anew as one array of all files, in blocks of any size.

Of many files most say the same. A netCDF library takes some milliseconds to open a file, and some
memory while it is open; what a file says of its variables is read in a fraction of one. A file
that says what the first one says is as that one, but for its lengths and its labels.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.local import get_sync
from numpy.typing import NDArray
from xarray.indexes import PandasIndex

from xchunk.core.layout import ArrayLayout
from xchunk.core.types import DimChunk
from xchunk.core.units import format_bytes, format_count
from xchunk.errors import InvalidChunksError, SourceError, XchunkWarning
from xchunk.rechunking.lazy import chunk_lazily
from xchunk.sources.arrays import read_by_library
from xchunk.sources.decoding import DECODING_KEYS, same_attribute
from xchunk.sources.hdf5_read import Headers, open_headers, read_headers
from xchunk.sources.joint import JoinedArray
from xchunk.sources.layouts import join_layouts, read_layouts


def open_alike(
    names: Sequence[str],
    group: str | None,
    opened: Callable[[str], xr.Dataset],
    *,
    alike: bool = True,
    progress: bool | None = None,
) -> list[xr.Dataset]:
    """Open files.

    - ``names``: their paths or URLs.
    - ``group``: the group that is opened.
    - ``opened``: opens one.
    - ``alike``: whether a file that says of its variables what the first one says may have the
      first one's global attributes, and is not opened by its library.
    - ``progress``: whether the files are counted on the terminal while they are opened, once that
      takes more than two seconds; by default where somebody looks at it.
    """
    with _counting(len(names), progress) as tell:
        return _opened(names, group, opened, alike, tell)


@contextmanager
def _counting(total: int, progress: bool | None) -> Iterator[Callable[[int], None]]:
    """Count what is done in a line of the terminal, which is empty again in the end."""
    wanted = sys.stderr.isatty() if progress is None else progress
    begun = shown = time.monotonic()
    last = ""

    def tell(number: int) -> None:
        nonlocal shown, last
        now = time.monotonic()
        if wanted and now - begun > _PATIENCE and now - shown > _EVERY:
            shown, last = now, f"opened {number:,} of {total:,} files"
            sys.stderr.write(f"\r{last}")
            sys.stderr.flush()

    try:
        yield tell
    finally:
        if last:
            sys.stderr.write(f"\r{' ' * len(last)}\r")
            sys.stderr.flush()


def _opened(
    names: Sequence[str],
    group: str | None,
    opened: Callable[[str], xr.Dataset],
    alike: bool,
    tell: Callable[[int], None],
) -> list[xr.Dataset]:
    out: list[xr.Dataset | _Seen] = []
    template: _Template | None = None
    for number, name in enumerate(names):
        seen = None if template is None else template.look(name)
        if seen is not None:
            out.append(seen)
        else:
            out.append(ds := opened(name))
            if number == 0 and alike and len(names) > 1:
                template = _Template.of(name, group, ds)
        tell(number + 1)
    seen_ones = [one for one in out if isinstance(one, _Seen)]
    twins = {} if template is None else template.twins(seen_ones)
    files: list[xr.Dataset] = []
    for one in out:
        twin = twins.get(one.name) if isinstance(one, _Seen) else one
        files.append(opened(names[len(files)]) if twin is None else twin)
    return files


@dataclass(frozen=True, eq=False)
class _Seen:
    """A file that says what the template says."""

    name: str
    """Its path."""
    headers: Headers
    """What it says."""
    raw: Mapping[Any, NDArray[Any]]
    """Its labels as they are stored."""


#: Seconds after which files are counted, and from one count to the next.
_PATIENCE, _EVERY = 2.0, 0.2

#: What decoding moves from a variable's attributes to its encoding.
_DECODED = (
    "units", "calendar", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Template:
    """A file that was opened, with which others are compared."""

    ds: xr.Dataset
    """What is in it."""
    group: str | None
    """The group."""
    headers: Headers
    """What it says of its variables."""
    raw: Mapping[Any, xr.Variable]
    """Its labels as they are stored, by the names of their variables."""
    twin_of: Callable[..., xr.Variable | None]
    """Makes a variable of another file; see `xchunk.sources.xarray_adapter`."""

    @classmethod
    def of(cls, name: str, group: str | None, ds: xr.Dataset) -> _Template | None:
        """Take a file as the template; None where others cannot be compared with it."""
        headers = read_headers(name, group)
        if headers is None:
            return None
        try:
            from xchunk.sources.xarray_adapter import twin_of
        except ImportError:
            # an xarray of another inside
            return None
        raw, shapes = {}, {key: header.shape for key, header in headers.variables.items()}
        for key, variable in ds.variables.items():
            header = headers.variables.get(str(key))
            if header is None or variable.shape != header.shape:
                return None
            if key not in ds.xindexes:
                if twin_of(variable, name, None, shapes, read_by_library) is None:
                    # it is in memory, or read by a library
                    return None
                continue
            labels = _labels_of(name, group, [key], headers)
            if labels is None or variable.dims != (key,):
                return None
            own = {k: v for k, v in variable.encoding.items() if k in _DECODED}
            raw[key] = xr.Variable((key,), labels[key], {**own, **variable.attrs})
            decoded: Any = _decoded(key, raw[key], variable)
            if not decoded.identical(variable.to_base_variable()):
                return None
        return cls(ds, group, headers, raw, twin_of)

    def look(self, name: str) -> _Seen | None:
        """Look at another file; None where it does not say the same."""
        # as xarray spells it: a worker may be in another folder
        name = os.path.abspath(os.path.expanduser(name))  # noqa: PTH100, PTH111
        headers = read_headers(name, self.group)
        if headers is None or not self._says(headers):
            return None
        raw = _labels_of(name, self.group, list(self.raw), headers)
        if raw is None or any(raw[key].dtype != mine.dtype for key, mine in self.raw.items()):
            return None
        return _Seen(name, headers, raw)

    def twins(self, files: Sequence[_Seen]) -> dict[str, xr.Dataset]:
        """Make the Datasets of files that say the same, by their names."""
        labels = {key: self._labelled(key, files) for key in self.raw} if files else {}
        made, indexes = {}, dict(self.ds.xindexes)
        for number, one in enumerate(files):
            ds = self._twin(one, {key: found[number] for key, found in labels.items()}, indexes)
            if ds is not None:
                made[one.name] = ds
        return made

    def _twin(
        self, one: _Seen, labels: Mapping[Any, xr.Variable | None], own: Mapping[Any, Any]
    ) -> xr.Dataset | None:
        """Make a Dataset of a file, with the indexes of this one where labels are the same."""
        stamp = one.headers.identity[2:]
        coords: dict[Any, xr.Variable] = {}
        data: dict[Any, xr.Variable] = {}
        shapes = {key: header.shape for key, header in one.headers.variables.items()}
        indexes: dict[Any, Any] = {}
        for key, variable in self.ds.variables.items():
            if key in labels:
                new = labels[key]
                if new is None:
                    return None
                where = {"source": one.name, "original_shape": new.shape}
                if new is variable:
                    indexes[key], new = own[key], variable.copy(deep=False)
                else:
                    indexes[key] = PandasIndex.from_variables({key: new}, options={})
                    new = indexes[key].create_variables({key: new})[key]
                new.encoding = {**new.encoding, **where}
                coords[key] = new
                continue
            twin = self.twin_of(variable, one.name, stamp, shapes, read_by_library)
            if twin is None or not _keeps_dtype(twin):
                return None
            (coords if key in self.ds.coords else data)[key] = twin
        ds = xr.Dataset(data, xr.Coordinates(coords, indexes), self.ds.attrs)
        ds.encoding = {**self.ds.encoding, "source": one.name}
        return ds

    def _says(self, headers: Headers) -> bool:
        mine, other = self.headers.variables, headers.variables
        return (
            mine.keys() == other.keys()
            and headers.groups == self.headers.groups
            and headers.coordinates == self.headers.coordinates
            and all(mine[key].digest == other[key].digest for key in mine)
        )

    def _labelled(self, key: Any, files: Sequence[_Seen]) -> list[xr.Variable | None]:
        """Decode the labels of files along a dim; None where the library has to."""
        mine, own = self.raw[key], self.ds.variables[key]
        raw = [one.raw[key] for one in files]
        new = [n for n, r in enumerate(raw) if r.tobytes() != mine.values.tobytes()]
        out: list[xr.Variable | None] = [own] * len(raw)
        if not new:
            return out
        # integers all at once: to decode times takes long, however few they are; floats may be
        # rounded by what else there is
        is_exact = mine.dtype.kind in "iu"
        for some in [new] if is_exact else [[n] for n in new]:
            whole = xr.Variable(mine.dims, np.concatenate([raw[n] for n in some]), mine.attrs)
            try:
                decoded = _decoded(key, whole, own)
            except (ValueError, OverflowError):
                decoded = None
            start = 0
            for n in some:
                stop = start + len(raw[n])
                out[n] = None
                if decoded is not None and decoded.dtype == own.dtype:
                    out[n] = decoded[start:stop].copy(deep=False)
                start = stop
        return out


def _labels_of(
    name: str, group: str | None, keys: Sequence[Any], headers: Headers
) -> dict[Any, NDArray[Any]] | None:
    """Read labels as they are stored; None where the library has to read some."""
    addresses = {str(key): headers.variables[str(key)].address for key in keys}
    found = open_headers(name, group, addresses)
    out = {}
    for key in keys:
        direct = found[str(key)]
        if direct is None or direct.identity != headers.identity:
            return None
        if not direct.is_readable or len(direct.shape) != 1:
            return None
        try:
            out[key] = direct.read([slice(0, direct.shape[0])])
        except SourceError:
            # the library says what is wrong with it
            return None
    return out


def _decoded(key: Any, stored: xr.Variable, like: xr.Variable) -> xr.Variable:
    found = xr.conventions.decode_cf_variable(key, stored).load()
    return xr.Variable(found.dims, found.values, found.attrs, dict(like.encoding))


def _keeps_dtype(variable: xr.Variable) -> bool:
    """Whether values decode to the dtype that the first file's have: of times it may differ."""
    if variable.dtype.kind not in "mM" or not variable.size:
        # dates of another calendar are objects, as text is
        return variable.dtype.kind != "O" or "calendar" not in variable.encoding
    first, last = (0,) * variable.ndim, (-1,) * variable.ndim
    try:
        return all(variable[at].values.dtype == variable.dtype for at in (first, last))
    except (ValueError, TypeError, OverflowError):
        return False


#: Bytes up to which what is taken from one file is compared with what the others hold.
_COMPARED = 32_000_000
#: Files that an error names; the others are counted.
_NAMED = 3
_MEANING = ("units", "calendar", *DECODING_KEYS)


def check_agreement(
    names: Sequence[str],
    datasets: Sequence[xr.Dataset],
    joined: Sequence[Hashable],
    *,
    nested: bool,
    merging: bool = False,
) -> None:
    """Refuse files that mean different things by a variable, or of which some would be dropped.

    - ``names``: the paths of the files.
    - ``datasets``: what is in them, before they are put together.
    - ``joined``: the dims along which they are put together, where that is said.
    - ``nested``: whether they are put together as they are listed, and not by their coordinates.
    - ``merging``: whether some of them are to add variables to others.
    - raises `SourceError` if they differ; names the variable and the files.
    """
    labels = _labels(datasets)
    dims = set(joined) if nested else set(_differing(labels))
    if nested and not merging:
        _refuse_lacking(names, datasets, dims)
    indexed = [set(ds.xindexes) for ds in datasets]
    firsts: dict[Hashable, list[int]] = {}
    for i, ds in enumerate(datasets):
        for name in ds.variables:
            firsts.setdefault(name, []).append(i)
    for name, owners in firsts.items():
        _refuse_other_meaning(name, owners, names, datasets)
        seen: dict[Hashable, int] = {}
        for i in owners:
            variable = datasets[i].variables[name]
            if name in indexed[i]:
                continue
            along = dims & set(variable.dims)
            if nested and (along or set(joined) - set(datasets[i].dims)):
                # side by side with the others, or along a new dim
                continue
            place = (
                tuple(sorted(map(str, along))),
                tuple(labels[i][d] for d in sorted(along, key=str)),
            )
            first = seen.setdefault(place, i)
            if first != i:
                pair = (names[first], names[i])
                bare = [d for d in variable.dims if not nested and d not in indexed[i]]
                how = f"; or concat_dim={bare[0]!r}, for files in their order" if bare else ""
                ours = datasets[first].variables[name]
                _refuse_other_values(name, ours, variable, pair, same_place=bool(along), how=how)


def _refuse_lacking(
    names: Sequence[str], datasets: Sequence[xr.Dataset], dims: set[Hashable]
) -> None:
    """Refuse files without a variable that others have along the dims: it would be made up."""
    new = bool(dims - {d for ds in datasets for d in ds.dims})
    wanted = {
        n for ds in datasets for n, v in ds.variables.items()
        if dims & set(v.dims) or (new and n in ds.data_vars)
    }  # fmt: skip
    for name in sorted(wanted, key=str):
        without = [n for n, ds in zip(names, datasets, strict=True) if name not in ds.variables]
        if without:
            raise SourceError(
                f"{name!r} is not in {_listed(without)}: its part there would be made up of "
                f"missing values. Leave out the files, or the variable: drop_variables={name!r}."
            )


def _differing(labels: Sequence[Mapping[Hashable, Hashable]]) -> Iterator[Hashable]:
    """Find the dims along which files have different labels, or lengths."""
    first: dict[Hashable, Hashable] = {}
    for own in labels:
        for dim, one in own.items():
            if first.setdefault(dim, one) != one:
                yield dim


def _labels(datasets: Sequence[xr.Dataset]) -> list[dict[Hashable, Hashable]]:
    """Return what tells the labels of each file's dims from others'; lengths, where it has none.

    Indexes that files share are looked at once.
    """
    tokens: dict[int, Hashable] = {}

    def told(index: Any, size: int) -> Hashable:
        try:
            found = index.to_pandas_index()
        except TypeError:  # of an index that is not pandas'
            return size
        plain = isinstance(found.dtype, np.dtype) and found.dtype.kind in "biufmM"
        # as good as a token, and quicker
        return (found.dtype.str, found.values.tobytes()) if plain else str(tokenize(found))

    out = []
    for ds in datasets:
        own: dict[Hashable, Hashable] = dict(ds.sizes)
        for dim, index in ds.xindexes.items():
            if dim in own:
                if id(index) not in tokens:
                    tokens[id(index)] = told(index, ds.sizes[dim])
                own[dim] = tokens[id(index)]
        out.append(own)
    return out


def _refuse_other_meaning(
    name: Hashable, owners: Sequence[int], names: Sequence[str], datasets: Sequence[xr.Dataset]
) -> None:
    for key in _MEANING:
        said = [
            (i, datasets[i].variables[name].attrs[key])
            for i in owners
            if key in datasets[i].variables[name].attrs
        ]
        other = [(i, value) for i, value in said if not same_attribute(value, said[0][1])]
        if other:
            raise SourceError(
                f"{name!r} has {key} {said[0][1]!r} in {names[said[0][0]]}, and {other[0][1]!r} in "
                f"{_listed([names[i] for i, _ in other])}: together they would be taken for one. "
                "Convert them first, with preprocess=…, or open them one by one."
            )


def _refuse_other_values(
    name: Hashable,
    a: xr.Variable,
    b: xr.Variable,
    files: tuple[str, str],
    *,
    same_place: bool,
    how: str,
) -> None:
    """Refuse two variables of which one would be dropped, where they differ."""
    where = " at the same labels" if same_place else ""
    remedy = (
        "Leave out one of the files."
        if same_place
        else f"Leave it out: drop_variables={name!r}; or give it the dim along which they are put "
        f"together, with preprocess=…{how}."
    )
    if max(a.nbytes, b.nbytes) > _COMPARED:
        said = f"{name!r} is{where} in {files[0]} and in {files[1]}"
        if same_place:
            raise SourceError(f"{said}: one of them would be dropped. {remedy}")
        warnings.warn(
            f"{said}, {format_bytes(a.nbytes)} each, which is not compared: it is taken from the "
            "first of them.",
            XchunkWarning,
            stacklevel=5,
        )
        return
    if set(a.dims) == set(b.dims):
        first, second = (
            np.asarray(v[(slice(None),) * v.ndim].values) for v in (a, b.transpose(*a.dims))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if xr.Dataset({"v": (a.dims, first)}).equals(xr.Dataset({"v": (a.dims, second)})):
                return
    raise SourceError(
        f"{name!r} differs{where} between {files[0]} and {files[1]}: one of them would be dropped. "
        f"{remedy}"
    )


def warn_of_repeats(
    names: Sequence[str], datasets: Sequence[xr.Dataset], combined: xr.Dataset
) -> None:
    """Warn of labels that stand twice in what was put together, and name the files."""
    for dim, index in combined.indexes.items():
        if index.is_unique or all(
            d.indexes[dim].equals(index) for d in datasets if dim in d.indexes
        ):
            continue
        twice = set(index[index.duplicated()])
        owners = [
            n
            for n, d in zip(names, datasets, strict=True)
            if dim in d.indexes and twice & set(d.indexes[dim])
        ]
        warnings.warn(
            f"{format_count(len(twice))} labels of {dim!r} stand more than once, such as "
            f"{min(twice)}: they are in {_listed(owners)}. Leave out the files that repeat others, "
            f"or drop them: ds.drop_duplicates({dim!r}).",
            XchunkWarning,
            stacklevel=5,
        )


def odd_files(
    names: Sequence[str], datasets: Sequence[xr.Dataset], joined: Sequence[Hashable]
) -> str:
    """Say which files keep others from being put together; empty where that cannot be told."""
    labels = _labels(datasets)
    dims = list(joined) or [
        d for d in dict.fromkeys(_differing(labels)) if _may_join(datasets, labels, d)
    ]
    said: list[str] = []
    for dim in dims:
        indexes = [
            (n, d.indexes[dim]) for n, d in zip(names, datasets, strict=True) if dim in d.indexes
        ]
        mixed = [
            n
            for n, i in indexes
            if len(i) and not (i.is_monotonic_increasing or i.is_monotonic_decreasing)
        ]
        if mixed:
            said.append(f"the labels of {dim!r} are in no order in {_listed(mixed)}")
        try:
            spans = sorted((min(i), max(i), n) for n, i in indexes if len(i))
        except TypeError:
            said.append(f"the labels of {dim!r} are of several kinds")
            continue
        for (_, end, one), (start, _, two) in itertools.pairwise(spans):
            if start <= end:
                said.append(f"{one} and {two} overlap along {dim!r}, from {start} on")
                break
    known = {v for d in datasets for v in d.dims}
    for dim in sorted(known - set(dims), key=str):
        found = [own.get(dim) for own in labels]
        usual = max(found, key=found.count)
        odd = [n for n, one in zip(names, found, strict=True) if one != usual]
        if odd:
            said.append(f"{dim!r} is another one in {_listed(odd)}")
    for name in sorted({v for d in datasets for v in d.variables} - known, key=str):
        without = [n for n, d in zip(names, datasets, strict=True) if name not in d.variables]
        if 0 < len(without) <= len(names) // 2:
            said.append(f"{name!r} is not in {_listed(without)}")
    return "; ".join(said)


def _may_join(
    datasets: Sequence[xr.Dataset], labels: Sequence[Mapping[Hashable, Hashable]], dim: Hashable
) -> bool:
    """Return whether files mostly have labels of their own along a dim."""
    found = [own[dim] for ds, own in zip(datasets, labels, strict=True) if dim in ds.indexes]
    return bool(found) and max(map(found.count, found)) <= max(1, len(found) // 2)


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {format_count(rest)} more" if rest > 0 else shown


#: Finds the chunks of each variable of a Dataset from their layouts.
FindChunks: TypeAlias = Callable[
    [xr.Dataset, Sequence[ArrayLayout]], dict[str, dict[str, DimChunk]]
]


@dataclass(frozen=True)
class Opened:
    """Files that were opened, without dask."""

    names: tuple[str, ...]
    """Their paths or URLs."""
    datasets: tuple[xr.Dataset, ...]
    """What is in them."""

    def close(self) -> None:
        """Close all of them."""
        for ds in self.datasets:
            ds.close()


def join_files(
    files: Opened,
    find_chunks: FindChunks,
    *,
    combine: str | None,
    concat_dim: Any,
    join: str,
    preprocess: Callable[[xr.Dataset], xr.Dataset] | None,
) -> xr.Dataset:
    """Put files together, in chunks that fit.

    - ``find_chunks``: finds the chunks of each variable.
    - ``combine``, ``concat_dim``, ``join``, ``preprocess``: as in
      `xchunk.opening.dataset.open_dataset`.
    - raises `SourceError` if they do not fit together.
    """
    combine = combine or ("by_coords" if concat_dim is None else "nested")
    if combine not in ("by_coords", "nested"):
        raise InvalidChunksError(f"combine={combine!r} is neither 'by_coords' nor 'nested'.")
    if combine == "by_coords" and concat_dim is not None:
        raise InvalidChunksError(
            f"combine='by_coords' puts files together by their coordinates, for which "
            f"concat_dim={concat_dim!r} has no effect. Leave combine out to put them together "
            "as they are listed, or leave concat_dim out."
        )

    def together(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
        return _together(files.names, datasets, combine, concat_dim, join)

    along = concat_dim if isinstance(concat_dim, list | tuple) else [concat_dim]
    joined = [d for d in along if d is not None]
    how = {"nested": combine == "nested", "merging": None in along}
    combined: xr.Dataset | None = None
    # A preprocessed file is no stored file any more, and reindexed blocks are no whole files.
    if preprocess is None and join in ("exact", "override"):
        check_agreement(files.names, files.datasets, joined, **how)
        standins = [_standin(ds, i) for i, ds in enumerate(files.datasets)]
        combined = _rebuilt(together(standins), files, find_chunks)
    if combined is None:
        chunked = []
        new = [d for d in joined if not any(d in ds.dims for ds in files.datasets)]
        made = bool(new) and preprocess is None
        whole = _with_new_dims(files, together, new, find_chunks) if made else {}
        for ds in files.datasets:
            chunks = whole if made else find_chunks(ds, read_layouts({"": ds}).layouts)
            own = {
                name: {d: n for d, n in c.items() if d in ds.variables[name].dims}
                for name, c in chunks.items()
                if name in ds.variables
            }
            one = chunk_lazily(ds, own)
            chunked.append(one if preprocess is None else preprocess(one))
        if preprocess is not None or join not in ("exact", "override"):
            check_agreement(files.names, chunked, joined, **how)
        combined = together(chunked)
    warn_of_repeats(files.names, files.datasets, combined)
    combined.set_close(files.close)
    return combined


def _with_new_dims(
    files: Opened,
    together: Callable[[Sequence[xr.Dataset]], xr.Dataset],
    new: Sequence[str],
    find_chunks: FindChunks,
) -> dict[str, dict[str, DimChunk]]:
    """Find chunks for all files together, whose use may be about a dim that no file has.

    Along a new dim a file is one element, and so is a chunk.
    """
    combined = together([_standin(ds, i) for i, ds in enumerate(files.datasets)])
    stored = read_layouts({"": files.datasets[0]})
    known = {v.name: v for v in stored}
    layouts = []
    for v in read_layouts({"": combined}):
        own = known.get(v.name)
        if own is not None and v.dims != own.dims and set(own.dims) <= set(v.dims):
            lengths = None
            if own.chunks is not None:
                by_dim = dict(zip(own.dims, own.chunks, strict=True))
                lengths = tuple(1 if d in new else by_dim[d] for d in v.dims)
            v = replace(own, dims=v.dims, shape=v.shape, chunks=lengths, shards=None)  # noqa: PLW2901
        layouts.append(v)
    return find_chunks(combined, layouts)


def _together(
    names: Sequence[str],
    datasets: Sequence[xr.Dataset],
    combine: str,
    concat_dim: Any,
    join: str,
) -> xr.Dataset:
    how: dict[str, Any] = {
        "data_vars": "minimal",
        "coords": "minimal",
        "compat": "override",
        "join": join,
        "combine_attrs": "override",
    }
    along = concat_dim if isinstance(concat_dim, list | tuple) else [concat_dim]
    if any(d is not None and d not in datasets[0].dims for d in along):
        # a new dim is one of all variables
        how["data_vars"] = "all"
    try:
        if combine == "nested":
            found: Any = xr.combine_nested(list(datasets), concat_dim=concat_dim, **how)
        else:
            found = xr.combine_by_coords(list(datasets), **how)
    except (ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())
        odd = odd_files(names, datasets, [d for d in along if d is not None])
        raise SourceError(
            f"{len(names)} files, {names[0]} … {names[-1]}, do not fit together"
            f"{': ' + odd if odd else ''} ({said}). "
            "Where no coordinate tells their order, give concat_dim=…; where "
            "coordinates of other dims differ, give join='outer', or open them one by one."
        ) from error
    if not isinstance(found, xr.Dataset):
        raise SourceError(f"{len(names)} files do not make one dataset.")
    return found


def _bulk(ds: xr.Dataset) -> list[Hashable]:
    """Name the variables that are data, rather than axes that xarray has to look at."""
    axes = {*ds.xindexes, *(name for name in ds.coords if ds.variables[name].ndim == 1)}
    return [name for name, v in ds.variables.items() if v.ndim and name not in axes]


def _standin(ds: xr.Dataset, i: int) -> xr.Dataset:
    """Replace the data of a file by its number; nothing of it is read."""
    new = {name: _numbered(ds.variables[name].shape, i) for name in _bulk(ds)}
    if new.keys() == set(ds.data_vars):
        # many times as fast as to assign
        return ds.copy(data=new)
    changed = {n: ds.variables[n].copy(data=array) for n, array in new.items()}
    coords = {n: v for n, v in changed.items() if n in ds.coords}
    return ds.assign({n: v for n, v in changed.items() if n not in coords}).assign_coords(coords)


def _numbered(shape: tuple[int, ...], i: int) -> Any:
    """Make one block of a shape that holds a number, and takes no memory."""
    import dask.array as da

    name = f"standin-{i}-{'x'.join(map(str, shape))}"
    block = np.broadcast_to(np.int32(i), shape)
    key = (name, *(0 for _ in shape))
    return da.Array(
        {key: block}, name, tuple((n,) for n in shape), meta=np.empty((0,) * len(shape), "i4")
    )


def _rebuilt(combined: xr.Dataset, files: Opened, find_chunks: FindChunks) -> xr.Dataset | None:
    """Put the data in the place of their stand-ins; None where a file is not there as a whole."""
    joined: dict[Any, JoinedArray] = {}
    bulk = {name for ds in files.datasets for name in _bulk(ds)}
    for name, variable in combined.variables.items():
        if name not in bulk:
            continue
        parts = _parts(name, variable, files.datasets)
        if parts is None:
            return None
        joined[name] = JoinedArray.of(parts)
    known = _Layouts()
    rest = {v.name: v for v in read_layouts({"": combined.drop_vars(list(joined))})}
    layouts = [
        _layout_of(name, combined, joined[name], known) if name in joined else rest[str(name)]
        for name in (*combined.data_vars, *combined.coords)
    ]
    chunks = find_chunks(combined, layouts)
    token = _token(files.names)
    new = {
        name: _variable(combined.variables[name], name, array, chunks.get(str(name), {}), token)
        for name, array in joined.items()
    }
    coords = {n: v for n, v in new.items() if n in combined.coords}
    out = combined.assign({n: v for n, v in new.items() if n not in coords})
    return out.assign_coords(coords)


def _parts(
    name: Any, variable: xr.Variable, datasets: Sequence[xr.Dataset]
) -> NDArray[np.object_] | None:
    """Report which file's variable each block of a combined stand-in is."""
    if variable.chunks is None or variable.dtype != np.dtype("i4"):
        return None
    keys = np.empty([len(c) for c in variable.chunks], dtype=object)
    for index in np.ndindex(keys.shape):
        keys[index] = (variable.data.name, *index)
    found_blocks = get_sync(dict(variable.data.dask), list(keys.flat))
    if not all(b.size for b in found_blocks):
        return None
    numbers = np.array([b.flat[0] for b in found_blocks]).reshape(keys.shape)
    parts = np.empty(numbers.shape, dtype=object)
    for index, number in np.ndenumerate(numbers):
        found = datasets[int(number)].variables.get(name)
        if found is None or set(found.dims) != set(variable.dims):
            return None
        lazy = found.transpose(*variable.dims)
        shape = tuple(c[i] for c, i in zip(variable.chunks, index, strict=True))
        if lazy.shape != shape:
            return None
        parts[index] = lazy
    return parts


class _Layouts:
    """Layouts of the files' variables: files that are alike are looked at once."""

    def __init__(self) -> None:
        self._known: dict[Any, ArrayLayout] = {}

    def of(self, name: str, variable: xr.Variable) -> ArrayLayout:
        encoding = variable.encoding
        lengths = encoding.get("chunks") or encoding.get("chunksizes")
        # to spell a dtype takes long, for thousands of files
        dtypes = (variable.dtype, encoding.get("dtype"))
        stored = [str(encoding.get(k)) for k in ("shards", "contiguous")]
        key = (name, variable.dims, variable.shape, dtypes, str(lengths), *stored)
        if lengths is None or key not in self._known:
            one = xr.Dataset({name: variable} if name not in variable.dims else {})
            self._known[key] = read_layouts({"": one})[name]
        return self._known[key]


def _layout_of(
    name: Any, combined: xr.Dataset, joined: JoinedArray, known: _Layouts
) -> ArrayLayout:
    """How all files together are stored: as if what they hold were one array."""
    each = np.empty(joined.variables.shape, dtype=object)
    for index, variable in np.ndenumerate(joined.variables):
        each[index] = known.of(name, variable)
    whole = replace(
        each.flat[0], shape=joined.shape, dtype=joined.dtype, is_coord=name in combined.coords
    )
    return join_layouts(whole, joined.edges, each)


def _variable(
    standin: xr.Variable,
    name: Any,
    array: JoinedArray,
    chunks: Mapping[str, DimChunk],
    token: str,
) -> xr.Variable:
    import dask.array as da

    lengths = tuple(chunks.get(str(d), -1) for d in standin.dims)
    data = da.from_array(
        array,
        chunks=lengths,
        name=f"open-{name}-{tokenize(token, str(name), lengths)}",
        meta=np.empty((0,) * array.ndim, dtype=array.dtype),
    )
    return xr.Variable(standin.dims, data, standin.attrs, array.encoding)


def _token(names: Sequence[str]) -> str:
    """Name what the files hold now, so that opening them again gives the same keys."""
    try:
        stats = [os.stat(n) for n in names]  # noqa: PTH116
        return str(tokenize(list(names), [(s.st_mtime_ns, s.st_size) for s in stats]))
    except OSError:
        return uuid.uuid4().hex
