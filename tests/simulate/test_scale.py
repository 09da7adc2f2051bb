"""From what twins take to what the data take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from xchunk.core.cost import Rates
from xchunk.core.layout import ArrayLayout
from xchunk.simulate.lazy import Shape, Source, blocks_of, lazy_graph
from xchunk.simulate.predict import Twin, Walked, grown, predict, predict_twins, twin_shapes, walk
from xchunk.simulate.replay import Step
from xchunk.sources.layouts import read_layouts

MB = 1_000_000


def walked(peaks: Sequence[int], *, kept: int = 0) -> Walked:
    """One task after the other, none of which keeps more than a little."""
    steps = tuple(
        Step((i - 1,) if i else (), kept, (), p * MB, 1.0, i, i == len(peaks) - 1, kind=str(i))
        for i, p in enumerate(peaks)
    )
    return Walked(steps, {}, {}, 0, 0, 0, ())


def heap(seen: list[tuple[Twin, Walked]]) -> int:
    found = predict_twins(
        [(twin, w, 0) for twin, w in seen], 1.0, threads=1, workers=1, rates=Rates()
    )
    return round((found.heap - found.tasks * 2_300) / MB)


SMALL, TWICE = Twin(Shape()), Twin(Shape(), 2.0, 10.0)


@pytest.mark.parametrize(
    ("small", "twice", "whole"),
    [
        # what makes the peak of the whole does not make that of its twins
        ([100, 20], [100, 40], 200),
        ([100, 2], [100, 4], 100),
        ([10, 20], [20, 40], 200),
        ([50, 50], [50, 60], 140),
        # not the same tasks: a line through the peaks
        ([30], [30, 60], 300),
    ],
    ids=["another", "the same", "all", "in part", "others"],
)
def test_each_task_grows_by_itself(small: list[int], twice: list[int], whole: int) -> None:
    assert heap([(SMALL, walked(small)), (TWICE, walked(twice))]) == whole


@pytest.mark.parametrize(
    ("small", "twice", "whole"),
    [(100, 100, 100), (100, 150, 550), (100, 200, 1000), (100, 205, 1000), (100, 400, 10_000)],
    ids=["not", "in part", "in proportion", "by accident", "with the square"],
)
def test_growth_is_fitted(small: float, twice: float, whole: float) -> None:
    assert grown([SMALL, TWICE], [small, twice]) == pytest.approx(whole)


@pytest.mark.parametrize("lon", [14, 3, 5, 180])
def test_windows_that_divide_the_data_divide_twins(lon: int) -> None:
    dtype = np.dtype("f4")
    main = ArrayLayout(
        "v", ("time", "lat", "lon"), (1460, 96, 180), chunks=(12, 96, 180), dtype=dtype,
        stored_dtype=dtype, format="zarr3",
    )  # fmt: skip
    own = {"time": 1460, "lat": 8, "lon": lon}
    for twin in twin_shapes(main, own, blocks_of(main, own), {}, 12):
        for d in ("lat", "lon"):
            assert twin.shape.keep.get(d, main.sizes[d]) % 12 == 0


def test_inputs_have_no_order() -> None:
    leaves = [Step((), 0, (), 0, 1.0, i) for i in range(2)]
    small, twice = (
        Walked(
            (*leaves, *(Step(deps, 0, (), n * MB, 1.0, i) for i, n in tasks)), {}, {}, 0, 0, 0, ()
        )
        for deps, tasks in (((0, 1), [(2, 100), (3, 20)]), ((1, 0), [(2, 100), (3, 40)]))
    )
    assert heap([(SMALL, small), (TWICE, twice)]) == 200


def test_each_dim_has_its_line() -> None:
    wide, high = Twin(Shape(), 2.0, 8.0), Twin(Shape(), 1.5, 3.0)
    # 4 for all, and 6 for each of one dim
    assert heap([(SMALL, walked([10])), (wide, walked([16])), (high, walked([10]))]) == 52
    # 10 for each of both dims
    assert heap([(SMALL, walked([10])), (wide, walked([20])), (high, walked([15]))]) == 240


@pytest.mark.parametrize(
    ("thin", "larger"),
    [
        ({}, []),
        ({"lat": 0.1}, [("lat", 2.0, 10.0)]),
        ({"lat": 0.1, "lon": 0.5}, [("lat", 2.0, 10.0), ("lon", 2.0, 2.0)]),
        ({"lat": 0.1, "lon": 1.0}, [("lat", 2.0, 10.0)]),
        ({"lat": 0.8}, [("lat", 1.25, 1.25)]),
    ],
    ids=["as it is", "one dim", "two dims", "whole", "little"],
)
def test_a_twin_is_larger_in_each_thin_dim(
    thin: dict[str, float], larger: list[tuple[str, float, float]]
) -> None:
    dtype = np.dtype("f4")
    main = ArrayLayout(
        "v", ("time", "lat", "lon"), (10, 100, 200), chunks=(1, 100, 200), dtype=dtype,
        stored_dtype=dtype, format="zarr3",
    )  # fmt: skip
    own = {"time": 1, "lat": 100, "lon": 200}
    small, *others = twin_shapes(main, own, {"time": 10, "lat": 1, "lon": 1}, thin)
    assert dict(small.shape.thin) == thin
    for twin, (dim, by, to) in zip(others, larger, strict=True):
        assert (twin.by, twin.to) == (pytest.approx(by), pytest.approx(to))
        assert dict(twin.shape.thin) == {**thin, dim: min(1.0, 2 * thin[dim])}


@pytest.mark.parametrize(
    "thin",
    [{"lat": 1 / 6}, {"lat": 1 / 6, "lon": 0.5}],
    ids=["one dim", "two dims"],
)
@pytest.mark.parametrize(
    "workload",
    [
        # the result has the size that is asked for, whatever the size of the data
        lambda ds: ds.a.interp(lat=np.linspace(-79, 79, 90), lon=np.arange(0.5, 95, 2)),
        lambda ds: ds.a.std("time"),
        lambda ds: ds.a * 2 - ds.a.mean("lat"),
    ],
    ids=["interp", "std", "broadcast"],
)
def test_twins_tell_what_the_whole_takes(
    workload: Any, thin: dict[str, float], opened: Any
) -> None:
    groups = {"": opened()}
    layouts = {v.name: v for v in read_layouts(groups).layouts}
    source = Source(groups, layouts, Rates())
    own = {"time": 122, "lat": 96, "lon": 96}
    chunks, main = {"a": own}, layouts["a"]
    seen = []
    for twin in twin_shapes(main, own, blocks_of(main, own), thin):
        graph, gathered = lazy_graph(workload(source.twin(chunks, twin.shape)[""]), gather=False)
        seen.append((twin, walk(graph, Rates(), cap=10**9, seconds=60), gathered))
    found = predict_twins(seen, 1.0, threads=2, workers=1, rates=Rates())
    whole = predict(workload(source.twin(chunks)[""]), threads=2, gather=False)
    assert found.heap == pytest.approx(whole.heap, rel=0.15)
    assert found.touched == pytest.approx(whole.touched, rel=0.15)
    assert found.tasks == whole.tasks
    assert found.nbytes_read == whole.nbytes_read
