import threading

from threedgen.core import ahead


def test_work_is_begun_once_and_waited_for():
    done, go = [], threading.Event()

    def work():
        go.wait(10)
        done.append(1)

    ahead.begin("test", work)
    ahead.begin("test", work)
    assert not done
    go.set()
    ahead.wait("test")
    assert done == [1]
    ahead.wait("test")
    ahead.wait("never begun")
