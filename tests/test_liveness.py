"""Signs of life."""

import threading

import pytest

from common import liveness
from common.liveness import signs_of_life


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(liveness, "SIGN_OF_LIFE", 0.01)


def test_a_sign_that_could_not_be_given_is_not_the_last(caplog):
    given, enough = [], threading.Event()

    def note(alive):
        given.append(alive)
        if len(given) == 1:
            raise OSError("database is locked")
        enough.set()

    with signs_of_life(note):
        assert enough.wait(10)
    assert given == sorted(given)
    assert "no sign of life could be given: database is locked" in caplog.text


def test_no_sign_after_the_end():
    given = []
    with signs_of_life(given.append):
        pass
    count = len(given)
    threading.Event().wait(0.05)
    assert len(given) == count
