"""Broken versions of good files: bytes turned, cut, doubled; json with a value that cannot be meant."""

import copy
import json
import random

STRANGE = (
    None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**30, "", "x" * 300, "../../etc/passwd",
    [], {}, [[]], [None], {"a": 1}, "\u0000", "\uff11\uff12", [1e9] * 4, [-5, -5, 1, 1], [0, 0, 0, 0],
)  # fmt: skip


def broken_bytes(content: bytes, seed: int) -> bytes:
    """A file damaged as disks, networks and editors damage files."""
    choose = random.Random(seed)
    data = bytearray(content)
    for _ in range(choose.choice((1, 1, 2, 5, 20))):
        if not data:
            break
        place = choose.randrange(len(data))
        kind = choose.randrange(6)
        if kind == 0:
            data[place] ^= 1 << choose.randrange(8)
        elif kind == 1:
            data[place] = choose.randrange(256)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + choose.randrange(1, 40)]
        elif kind == 4:
            data[place:place] = bytes(choose.randrange(256) for _ in range(choose.randrange(1, 9)))
        else:
            data[place : place + 4] = choose.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
    return bytes(data)


def broken_json(content: bytes, seed: int) -> bytes:
    """A file that is still json, with values missing, exchanged or absurd."""
    choose = random.Random(seed)
    value = copy.deepcopy(json.loads(content))
    for _ in range(choose.choice((1, 1, 2, 4))):
        value = _mutated(value, choose, depth=choose.randrange(1, 7))
    return json.dumps(value).encode()


def _mutated(value, choose, depth):
    if depth and isinstance(value, dict) and value:
        key = choose.choice(list(value))
        kind = choose.randrange(8)
        if kind == 0:
            del value[key]
        elif kind == 1:
            value[key + "_"] = value.pop(key)
        else:
            value[key] = _mutated(value[key], choose, depth - 1)
        return value
    if depth and isinstance(value, list) and value:
        place = choose.randrange(len(value))
        kind = choose.randrange(8)
        if kind == 0:
            del value[place]
        elif kind == 1:
            value.append(copy.deepcopy(value[place]))
        else:
            value[place] = _mutated(value[place], choose, depth - 1)
        return value
    return copy.deepcopy(choose.choice(STRANGE))
