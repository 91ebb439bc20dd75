"""A cache of operators' output shapes: torch computes many of them in Python, in a fifth of a millisecond each.

The passes of a configuration (three phases, two micro-batches of each, with and without recomputation, validation) run
the same operators on the same shapes again and again.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

META = torch.device("meta")
MOST = 10_000
"""Cached operators with input shapes; the cache is emptied when there are more."""

_Metadata = tuple[torch.Size, tuple[int, ...], torch.dtype]
_Makes = _Metadata | list[_Metadata | None] | None
"""One new tensor, several (None where there is none), or an operator that must run each time."""
_known: dict[Hashable, _Makes] = {}


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An operator's result for meta tensors: new tensors like those it made before for inputs of the same shapes.

    Caches only results that are new storages, exactly as large as their shape and strides imply; views, in-place
    operators and whatever reads values run each time.
    """
    try:
        key = (func, torch.get_default_dtype(), *_described(args), *kwargs, *_described(tuple(kwargs.values())))
        makes = _known[key]
    except TypeError:  # an argument that is not hashable
        return func(*args, **kwargs)
    except KeyError:
        result = func(*args, **kwargs)
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = _makes(result, set(_storages((*args, *kwargs.values()))))
        return result
    if makes is None:
        return func(*args, **kwargs)
    if isinstance(makes, list):
        return tuple(None if metadata is None else _empty(metadata) for metadata in makes)
    return _empty(makes)


def _empty(metadata: _Metadata) -> Tensor:
    size, stride, dtype = metadata
    return torch.empty_strided(size, stride, dtype=dtype, device=META)


def _described(args: tuple[Any, ...]) -> Iterator[Hashable]:
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg.shape, arg.stride(), arg.dtype, arg.device.type
        elif isinstance(arg, (list, tuple)):
            yield tuple(_described(tuple(arg)))
        else:
            yield type(arg), arg  # 1, 1.0 and True are equal but give different types


def _storages(args: tuple[Any, ...]) -> Iterator[int]:
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg.untyped_storage()._cdata
        elif isinstance(arg, (list, tuple)):
            yield from _storages(tuple(arg))


def _makes(result: Any, taken: set[int]) -> _Makes:
    """What to cache of a result whose inputs have the storages `taken`, since a schema does not mark all views."""
    if isinstance(result, Tensor):
        return _metadata(result, taken)
    if not (isinstance(result, tuple) and all(item is None or isinstance(item, Tensor) for item in result)):
        return None
    made: list[_Metadata | None] = []
    for item in result:
        if item is None:
            made.append(None)
            continue
        metadata = _metadata(item, taken)
        if metadata is None:
            return None
        taken.add(item.untyped_storage()._cdata)
        made.append(metadata)
    return made


def _metadata(result: Tensor, taken: set[int]) -> _Metadata | None:
    storage = result.untyped_storage()
    if result.device != META or result.storage_offset() or storage._cdata in taken:
        return None
    metadata = (result.shape, result.stride(), result.dtype)
    return metadata if storage.nbytes() == _empty(metadata).untyped_storage().nbytes() else None
