"""What is in an HDF5 file, and where its values lie. Only here the HDF5 library reads anything.

The library is written in C and trusts much of what a file says, so a crafted file can make it crash
or worse. We use it for as little as we can: it tells the shape, type and place of each dataset, and
`hdf5.py` reads the values itself. Even so, the library follows structures that we cannot check
before. That is why `hdf5.py` runs this module in a process of its own for files that may come from
anywhere; it then prints what it found as JSON.

h5py's own lock is held all the time. Not all of h5py's functions take it, and two threads inside
the library at once destroy its memory.
"""

import json
import os
import sys
from contextlib import suppress
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.errors import TinyMixNetError

if TYPE_CHECKING:  # h5py takes longer to import than all of ours: import it when a file comes
    import h5py

LONGEST_NAME = 4096  # bytes of a dataset's full name
LARGEST_TEXT = 65_536  # bytes of an attribute
MOST_CHUNKS = 1_000_000  # in a file
INFLATION = 1032  # deflate never unpacks to more than this many times its size
CHILD_BYTES = 4 << 30  # address space of the child process; most of it is never touched
OF_A_TYPE = "refused, type"  # begins the problem of a dataset where nothing else is wrong
SMALLEST_LIMIT = 1 << 20  # bytes: a chunk may always be this large, however small the array is

Place = tuple[tuple[int, ...], int, int]  # of a chunk: (its first index, offset in the file, bytes)


class Dataset(NamedTuple):
    """An array in the file. Where it cannot be read, `problem` says why."""

    shape: tuple[int, ...]
    dtype: str  # as NumPy writes it: <f4
    problem: str = ""
    filters: tuple[int, ...] = ()  # HDF5's numbers: 1 is deflate, 2 is shuffle
    chunks: tuple[int, ...] | None = None
    places: tuple[Place, ...] = ()


class Structure(NamedTuple):
    """All that `describe` finds in a file."""

    datasets: dict[str, Dataset]  # by full name
    attributes: dict[str, Any]  # of the root group: str, int, float, bool, or a tuple of these
    problems: list[str]  # with the file, its groups or its attributes


def describe(path: str | os.PathLike[str]) -> Structure:
    """Go through a file. Raises whatever h5py raises for a damaged one."""
    import h5py
    from h5py._objects import phil

    structure = Structure({}, {}, [])
    size = os.stat(path).st_size
    with phil, h5py.File(path, "r", locking=False) as file:
        for name in file.attrs:
            try:
                structure.attributes[name] = _attribute(file, name)
            except (TinyMixNetError, ValueError) as error:
                structure.problems.append(f"attribute {name}: {error}")
        chunks = 0
        for name, dataset in _walk(file, structure.problems):
            structure.datasets[name] = _describe_dataset(dataset, size, MOST_CHUNKS - chunks)
            chunks += len(structure.datasets[name].places)
    return structure


def _walk(file: "h5py.File", problems: list[str]) -> "list[tuple[str, h5py.h5d.DatasetID]]":
    """All datasets with their full names. No link is followed to another place, no group twice.

    They are h5py's plain identifiers. Its `Dataset` objects would take most of the time of a load.
    """
    from h5py import h5d, h5g, h5l, h5o

    datasets: list[tuple[str, h5d.DatasetID]] = []
    groups = [("", file["/"].id)]
    seen = {h5o.get_info(file["/"].id).addr}
    objects = 0
    for start, group in groups:  # grows as it goes
        objects += group.get_num_objs()
        if objects > budget.dump_layers:
            problems.append(f"refused, more than {budget.dump_layers:,} arrays and groups")
            return datasets
        links = group.links
        for name in group:
            path = start + name.decode()
            # A name with a slash in it would be looked up as a path, which may contain any link.
            if b"/" in name or links.get_info(name).type != h5l.TYPE_HARD:
                problems.append(f"{path}: refused, a soft or external link")
                continue
            item = h5o.open(group, name)
            if isinstance(item, h5g.GroupID):
                address = h5o.get_info(item).addr
                if address in seen or len(path) > LONGEST_NAME:
                    problems.append(f"{path}: refused, a group inside itself or in two places")
                    continue
                seen.add(address)
                groups.append((f"{path}/", item))
            elif not isinstance(item, h5d.DatasetID):
                problems.append(f"{path}: unexpected, neither an array nor a group of arrays")
            # Even to ask a virtual dataset for its shape may open the files that it is made of.
            elif item.get_create_plist().get_layout() == h5d.VIRTUAL:
                problems.append(f"{path}: refused, a virtual dataset")
            else:
                datasets.append((path, item))
    return datasets


def _describe_dataset(dataset: "h5py.h5d.DatasetID", file_size: int, most_chunks: int) -> Dataset:
    import h5py

    h5d, h5s, h5t, h5z = h5py.h5d, h5py.h5s, h5py.h5t, h5py.h5z

    kind, plist = dataset.get_type(), dataset.get_create_plist()
    text = isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    number = isinstance(kind, (h5t.TypeFloatID, h5t.TypeIntegerID))
    space = dataset.get_space()
    empty = space.get_simple_extent_type() == h5s.NULL
    shape, dtype = () if empty else space.get_simple_extent_dims(), dataset.dtype
    known = Dataset(shape, dtype.str)

    def bad(problem: str) -> Dataset:
        return known._replace(problem=problem)

    if plist.get_external_count():
        return bad("refused, stored in another file")
    if plist.get_layout() not in (h5d.CONTIGUOUS, h5d.CHUNKED):
        return bad("refused, neither stored as one run of bytes nor in chunks")
    filters = tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))
    chunks = plist.get_chunk() if plist.get_layout() == h5d.CHUNKED else None
    known = known._replace(filters=filters, chunks=chunks)
    if filters not in ((), (h5z.FILTER_DEFLATE,), (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE)):
        return bad(f"refused, filters {[*filters]}; store it plain or with gzip")
    nbytes = prod(shape) * dtype.itemsize
    if empty or (nbytes and not dataset.get_storage_size()):
        return bad("refused, nothing stored")
    if nbytes > file_size * (INFLATION if filters else 1):
        return bad(f"damaged, {nbytes:,} bytes cannot be in a file of {file_size:,} bytes")
    if not (text or number):
        return bad(f"{OF_A_TYPE} {dtype}; expected numbers or text of fixed length")
    if number and h5t.py_create(dtype) != kind:  # bfloat16, say
        return bad("refused, numbers of a type that NumPy does not have")
    if not nbytes:
        return known
    if chunks is None:
        offset = dataset.get_offset()
        if offset is None or offset + nbytes > file_size:
            return bad("damaged, its values lie beyond the end of the file")
        return known._replace(places=(((0,) * len(shape), offset, nbytes),))
    chunk_bytes = prod(chunks) * dtype.itemsize
    if chunk_bytes > 2 * max(nbytes, SMALLEST_LIMIT):
        return bad(f"refused, chunks {chunks} of an array {shape}")
    starts = [range(0, n, step) for n, step in zip(shape, chunks, strict=True)]
    if prod(map(len, starts)) > most_chunks:
        return bad(f"refused, more than {MOST_CHUNKS:,} chunks")
    places = []
    for start in product(*starts):
        info = dataset.get_chunk_info_by_coord(start)
        if info.byte_offset is None or info.filter_mask:
            return bad("damaged, a part of it is missing")
        plausible = info.size == chunk_bytes if not filters else info.size <= 2 * chunk_bytes + 1024
        if not plausible or info.byte_offset + info.size > file_size:
            return bad(f"damaged, a chunk of {chunk_bytes:,} bytes is stored in {info.size:,}")
        places.append((start, info.byte_offset, info.size))
    return known._replace(places=tuple(places))


def _attribute(file: "h5py.File", name: str) -> Any:
    """An attribute as str, int, float, bool or a tuple of up to three of them."""
    from h5py import h5a, h5t

    attribute = h5a.open(file.id, name.encode())
    kind = attribute.get_type()
    plain = isinstance(kind, (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID))
    plain |= isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    few = attribute.shape is not None and prod(attribute.shape) <= 3
    if not plain or not few or attribute.get_storage_size() > LARGEST_TEXT:
        raise TinyMixNetError("refused, neither numbers nor text of fixed length")
    value = file.attrs[name]
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    value = value.decode() if isinstance(value, bytes) else value
    return tuple(value) if isinstance(value, list) else value


# -- from one process to another ------------------------------------------------------------------


def print_structure(path: str, most_objects: int) -> None:
    """What the child process does: describe a file on standard output, as one JSON object."""
    budget.dump_layers = most_objects
    with suppress(ImportError):  # Windows has no such module
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    try:
        answer: dict[str, Any] = {"structure": describe(path)}
    except Exception as error:  # the HDF5 library raises nearly any type on damaged files
        answer = {"error": f"damaged ({error})"}
    json.dump(answer, sys.stdout)


def parse_structure(text: bytes) -> Structure:
    """What `print_structure` wrote. Raises TinyMixNetError for anything else."""
    try:
        answer = json.loads(text)
        if "error" in answer:
            raise TinyMixNetError(str(answer["error"]))
        datasets, attributes, problems = answer["structure"]
        return Structure(
            {str(name): _parse_dataset(*fields) for name, fields in datasets.items()},
            {n: tuple(v) if isinstance(v, list) else v for n, v in attributes.items()},
            [*map(str, problems)],
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise TinyMixNetError("damaged, it cannot be told what is in it") from None


def _parse_dataset(
    shape: list[int],
    dtype: str,
    problem: str,
    filters: list[int],
    chunks: list[int] | None,
    places: list[tuple[list[int], int, int]],
) -> Dataset:
    lists = [(tuple(map(int, start)), int(offset), int(size)) for start, offset, size in places]
    numbers = tuple(map(int, shape)), None if chunks is None else tuple(map(int, chunks))
    filters_ = tuple(map(int, filters))
    return Dataset(numbers[0], str(dtype), str(problem), filters_, numbers[1], tuple(lists))
