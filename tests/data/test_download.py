import hashlib

import pytest

from marble.data.download import PUBLISHED, Published, download
from marble.errors import InputError, RunError

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def host(tmp_path, serve):
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "a.gz").write_bytes(CONTENT)
    return serve(tmp_path / "host")


def file(*hosts, md5=None):
    return Published("a.gz", md5 or hashlib.md5(CONTENT).hexdigest(), hosts)


def test_a_file_with_the_right_sum_is_kept_and_not_fetched_twice(tmp_path, host):
    address, asked = host
    for _ in range(2):
        assert download([file(address)], tmp_path / "got") == tmp_path / "got"
        assert (tmp_path / "got" / "a.gz").read_bytes() == CONTENT
    assert asked == ["/a.gz"]


def test_a_damaged_file_in_place_is_fetched_again(tmp_path, host):
    (tmp_path / "a.gz").write_bytes(CONTENT[:50])
    download([file(host[0])], tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_wrong_sum_is_an_input_error_and_leaves_nothing(tmp_path, host):
    with pytest.raises(InputError, match=r"a\.gz .*MD5 sum is .*, not 0123.*--source"):
        download([file(host[0], md5="0123")], tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []


def test_the_next_host_is_tried(tmp_path, host, serve):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.gz").write_bytes(b"a login page")
    (tmp_path / "empty").mkdir()
    hosts = serve(tmp_path / "empty")[0], serve(tmp_path / "bad")[0], host[0]
    download([file(*hosts)], tmp_path / "got")
    assert (tmp_path / "got" / "a.gz").read_bytes() == CONTENT


def test_no_answer_is_a_run_error_that_says_what_to_do(tmp_path, serve):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"cannot download a\.gz .*404.*--source"):
        download([file(serve(tmp_path / "empty")[0], "http://127.0.0.1:1/")], tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []


def test_every_published_file_has_a_sum_and_a_host():
    for files in PUBLISHED.values():
        for published in files:
            assert len(bytes.fromhex(published.md5)) == 16
            assert all(host.startswith("http") and host.endswith("/") for host in published.hosts)
            assert published.hosts
