"""JSON, read and written exactly as its standard says.

`read_json` reads files that may be wrong or hostile: manifests, and maps of names that users write.
`write_json` writes what the commands print with --json.
"""

import json
from math import isfinite
from typing import Any, NoReturn

from tinymixnet.errors import TraceError

LARGEST_JSON = 1 << 22  # bytes; the manifest of MixNet-L has 30,000
LONGEST_NUMBER = 40  # characters; Python takes seconds for a number of a million digits


def read_json(data: bytes) -> Any:
    """Return what JSON text in UTF-8 holds. Raises TraceError.

    Stricter than `json.loads`: no key may stand twice in one object (programs do not agree which of
    the two counts), and NaN, infinity and very long numbers are refused.
    """
    if len(data) > LARGEST_JSON:
        raise TraceError(f"refused, {len(data):,} bytes are too large, at most {LARGEST_JSON:,}")
    try:
        return json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_int=lambda text: int(_number(text)),
            parse_float=lambda text: float(_number(text)),
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise TraceError(f"not JSON ({error})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise ValueError(f"the key {key[:80]!r} stands twice in one object")
        entries[key] = value
    return entries


def _number(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text):,} digits")
    return text


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def write_json(value: Any) -> str:
    """Return a value as one line of JSON, see `json_values`.

    >>> write_json({"error": float("inf"), "shape": (1, 2)})
    '{"error": null, "shape": [1, 2]}'
    """
    return json.dumps(json_values(value), allow_nan=False)


def json_values(value: Any) -> Any:
    """Return a value without what JSON lacks: tuples become lists, NaN and infinity None."""
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
