"""locks.py: one at a time in a folder."""

import errno
from pathlib import Path

import pytest
from filelock import FileLock

from deformlearn.errors import InputError
from deformlearn.locks import alone_in, held, let_go


def test_a_second_one_is_refused_until_the_first_has_let_go(tmp_path):
    folder = tmp_path / "new"
    lock = held(folder)
    with pytest.raises(
        InputError, match=f"another process is working in {folder}; wait for it, or"
    ):
        held(folder)
    lock.release()
    held(folder).release()


def test_a_folder_in_which_nothing_was_written_is_gone_and_any_other_keeps_its_lock(tmp_path):
    # The lock of a folder with work in it stays: whoever waits for it waits for that very file.
    let_go(held(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    lock = held(tmp_path / "used")
    (tmp_path / "used" / "file").touch()
    let_go(lock)
    assert sorted(path.name for path in (tmp_path / "used").iterdir()) == [".lock", "file"]
    held(tmp_path / "used").release()


def test_a_url_is_no_folder_to_work_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="memory:/abc is a URL"):
        held(Path("memory://abc"))
    assert not any(tmp_path.iterdir())


def test_a_block_alone_in_a_folder_leaves_no_lock_and_no_empty_folder(tmp_path):
    with alone_in(tmp_path / "new"), pytest.raises(InputError, match="another process"):
        held(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with alone_in(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


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
