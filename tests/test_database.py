"""The file behind a cache: what is refused, what is made, and who holds it open."""

import os
import pickle
import shutil
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from _processes import output_of, start, succeeds_in_fork

from sktransfer._cache.database import FORMAT, Database, close_all, database
from sktransfer.exceptions import FeatureCacheError, FeatureCacheWarning


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "cache.sqlite")


def use(database_):
    with database_.transaction() as connection:
        connection.execute("update totals set hits = hits + 1")


def hits(path):
    found = Database(path)
    with found.connection() as connection:
        (n,) = connection.execute("select hits from totals").fetchone()
    found.close()
    return n


def refusal(path):
    with pytest.raises(FeatureCacheError) as caught:
        use(Database(path))
    error = caught.value
    assert isinstance(error, OSError)
    assert repr(path) in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return str(error)


# What is refused


@pytest.mark.parametrize(
    "content",
    [b"hello", b"\xff\xd8\xff\xe0" + bytes(5000), b"SQLite format 3\0" + b"\1" * 3000],
)
def test_file_that_is_something_else_is_refused_and_left_as_it_is(path, content):
    Path(path).write_bytes(content)
    assert "it is something else. It was left as it is. Pass another" in refusal(path)
    assert Path(path).read_bytes() == content


def test_database_of_another_program_is_refused_and_left_as_it_is(path):
    other = sqlite3.connect(path)
    other.execute("create table activations (id integer primary key, key blob)")
    other.commit()
    other.close()
    before = Path(path).read_bytes()
    assert "it is something else" in refusal(path)
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("found", [FORMAT - 1, FORMAT + 1])
def test_file_of_another_format_is_refused_with_both_numbers(path, found):
    use(Database(path))
    other = sqlite3.connect(path)
    other.execute(f"pragma user_version = {found}")
    other.close()
    message = refusal(path)
    assert f"it has the format {found}, and" in message
    assert f"reads and writes the format {FORMAT}. Delete it" in message


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_truncated_file_is_refused(path, share):
    made = Database(path)
    use(made)
    made.close()
    os.truncate(path, int(os.path.getsize(path) * share))
    assert "it is damaged (database disk image is malformed). Delete it" in (
        refusal(path)
    )


def test_folder_that_is_not_there_is_named(tmp_path):
    message = refusal(str(tmp_path / "absent" / "cache.sqlite"))
    assert f"there is no folder {str(tmp_path / 'absent')!r}. Make that" in message
    assert not (tmp_path / "absent").exists()


def test_folder_is_no_file(tmp_path):
    assert "it is a folder. Pass the path of a file in it." in refusal(str(tmp_path))


@pytest.fixture
def as_nobody():
    """A folder that this process may read and not write, even where it is root."""
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "cache.sqlite")
    made = Database(path)
    use(made)
    made.close()
    os.chmod(folder, 0o555)
    os.chmod(path, 0o444)
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    os.chmod(folder, 0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions are others here")
@pytest.mark.parametrize("name", ["cache.sqlite", "new.sqlite"])
def test_place_that_cannot_be_written_is_refused(as_nobody, name):
    message = refusal(os.path.join(as_nobody, name))
    assert "it cannot be written" in message
    assert "Check the permissions" in message
    assert "cache=None" in message


# What is made


def test_empty_file_becomes_a_cache(path):
    Path(path).touch()
    use(Database(path))
    assert hits(path) == 1


def test_file_keeps_a_write_ahead_log_while_it_is_open(path):
    made = Database(path)
    use(made)
    with made.connection() as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        assert connection.execute("pragma synchronous").fetchone() == (1,)
    assert os.path.exists(f"{path}-wal")
    made.close()
    assert os.listdir(os.path.dirname(path)) == ["cache.sqlite"]


@pytest.mark.parametrize("is_new", [True, False])
def test_where_the_log_needs_what_a_folder_cannot_do_another_journal_is_used(
    path, is_new
):
    if not is_new:
        made = Database(path)
        use(made)
        made.close()
    os.mkdir(f"{path}-shm")  # shared memory cannot be had here
    opened = Database(path)
    with pytest.warns(FeatureCacheWarning, match="write-ahead log: a rollback journal"):
        use(opened)
    with opened.connection() as one:
        assert one.execute("pragma journal_mode").fetchone() == ("delete",)
        assert one.execute("pragma synchronous").fetchone() == (2,)
        use(opened)  # a second connection; the warning comes once
    opened.close()
    with pytest.warns(FeatureCacheWarning):
        assert hits(path) == 2 + (not is_new)


def test_failed_transaction_changes_nothing_and_the_next_one_works(path):
    made = Database(path)
    use(made)

    def fail():
        with made.transaction() as connection:
            connection.execute("update totals set hits = 99")
            raise RuntimeError("broke down")

    with pytest.raises(RuntimeError, match="broke down"):
        fail()
    use(made)
    made.close()
    assert hits(path) == 2


# Who holds it open


def test_threads_that_come_and_go_share_a_few_connections(path):
    made = Database(path)
    for _ in range(5):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: use(made), range(20)))
    (idle,) = made._idle.values()
    assert 1 <= len(idle) <= 3
    made.close()
    assert hits(path) == 100


def test_deleted_file_is_made_anew(path):
    made = Database(path)
    use(made)
    os.unlink(path)
    use(made)
    made.close()
    assert hits(path) == 1


def test_one_process_has_one_database_of_a_path(path):
    assert database(path) is database(path)
    assert database(path) is not database(f"{path}.other")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_nothing_idle_is_open_when_a_process_forks(path):
    made = database(path)
    use(made)
    (idle,) = made._idle.values()
    assert len(idle) == 1
    assert succeeds_in_fork(lambda: not idle)
    assert not idle
    use(made)
    close_all()
    assert not idle
    assert hits(path) == 2


RACER = """
import sys
from sktransfer._cache.database import Database

made = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    with made.transaction() as connection:
        connection.execute("update totals set hits = hits + 1")
"""


def test_processes_that_make_the_same_file_at_once_agree(path):
    racers = [start(RACER, path) for _ in range(4)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        output_of(racer)
    assert hits(path) == 80
