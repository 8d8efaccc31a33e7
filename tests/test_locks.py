"""locks.py: one at a time in a folder."""

import errno

import pytest
from filelock import FileLock

from deformlearn.errors import InputError
from deformlearn.locks import held


def test_a_second_one_is_refused_until_the_first_has_let_go(tmp_path):
    folder = tmp_path / "new"
    lock = held(folder)
    with pytest.raises(
        InputError, match=f"another process is working in {folder}; wait for it, or"
    ):
        held(folder)
    lock.release()
    held(folder).release()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EOPNOTSUPP, "Operation not supported"), "a file system without locks"),
        (NotImplementedError("no flock"), "a file system without locks, .*; give another --out"),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "cannot write in .*: Permission denied",
        ),
    ],
)
def test_where_nothing_can_be_locked_it_is_said_why(tmp_path, monkeypatch, error, reason):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(InputError, match=reason):
        held(tmp_path, otherwise="give another --out")
