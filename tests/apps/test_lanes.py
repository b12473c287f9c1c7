"""Jobs side by side: order, failures, places, and being stopped. A job here is a line of Python."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from video_llama.apps import lanes, verb_processes
from video_llama.apps.lanes import Slots, Task, run_lanes, run_tasks
from video_llama.apps.verb_processes import Verbs
from video_llama.common.errors import VideoLlamaError

WRITE = "open('{}', 'w').write('x')"


@dataclass(frozen=True)
class Line:
    """A line of Python as a job; it is done once its file is there."""

    name: str
    folder: Path
    code: str = WRITE
    size: int = 1
    ok_exit_codes: tuple[int, ...] = (0,)

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.done"

    def kept(self) -> int:
        return int(self.file.exists())

    def done(self) -> int:
        return self.kept()

    def words(self, *, num_ranks: int) -> list[str]:
        return [self.code.format(self.file)]


@pytest.fixture(autouse=True)
def lines_for_verbs(monkeypatch):
    """Run a line of Python where a verb would be run, and look often."""
    monkeypatch.setattr(
        verb_processes, "command_line", lambda words, num_ranks: [sys.executable, "-c", *words]
    )
    monkeypatch.setattr(lanes, "POLL_S", 0.02)


AFRESH = Verbs(warm=False)


def task(job, *after, bar="all"):
    return Task(job, bar=bar, after=after)


def test_a_job_waits_for_those_it_needs(tmp_path):
    needs = f"assert open('{tmp_path}/first.done'); " + WRITE
    tasks = [
        task(Line("first", tmp_path, "import time; time.sleep(0.3); " + WRITE)),
        task(Line("other", tmp_path)),
        task(Line("second", tmp_path, needs), 0, 1),
    ]
    assert run_tasks(tasks, slots=Slots([{}] * 3), verbs=AFRESH, keeps_going=True) == {}


def test_what_needs_a_job_that_failed_is_left_out_and_the_others_go_on(tmp_path):
    tasks = [
        task(Line("bad", tmp_path, "print('so it ends'); raise SystemExit(3)")),
        task(Line("after_bad", tmp_path), 0),
        task(Line("after_that", tmp_path), 1),
        task(Line("good", tmp_path)),
    ]
    failed = run_tasks(tasks, slots=Slots([{}]), verbs=AFRESH, keeps_going=True)
    assert set(failed) == {0, 1, 2}
    assert "bad: exit code 3" in failed[0]
    assert "so it ends" in failed[0]
    assert failed[1] == "after_bad: left out, because bad failed"
    assert tasks[3].job.kept()


def test_a_job_that_ends_well_before_it_is_done_has_failed(tmp_path):
    failed = run_tasks(
        [task(Line("lazy", tmp_path, "0"))], slots=Slots([{}]), verbs=AFRESH, keeps_going=True
    )
    assert "lazy: exit code 0" in failed[0]


def test_a_lane_ends_with_its_first_failure(tmp_path):
    with pytest.raises(VideoLlamaError, match="bad: exit code 1"):
        run_lanes([[Line("bad", tmp_path, "1/0"), Line("never", tmp_path)]], verbs=AFRESH)
    assert not (tmp_path / "never.done").exists()


def test_an_exit_code_that_is_fine_ends_no_lane(tmp_path):
    partly = Line("partly", tmp_path, WRITE + "; raise SystemExit(1)", ok_exit_codes=(0, 1))
    run_lanes([[partly, Line("next", tmp_path)]], verbs=AFRESH)
    assert (tmp_path / "next.done").exists()


def test_spare_jobs_fill_the_time_until_the_lanes_are_done(tmp_path):
    started = "open('{}', 'w').write('x'); import time; time.sleep(600)"
    waits = (
        f"import os, time\nwhile not os.path.exists('{tmp_path}/long.done'): time.sleep(0.02)\n"
        + WRITE
    )
    lanes_ = [[Line("slow", tmp_path, waits)], [Line("quick", tmp_path)]]
    spare = [Line("first", tmp_path), Line("long", tmp_path, started), Line("never", tmp_path)]
    run_lanes(lanes_, verbs=AFRESH, spare=spare)
    assert (tmp_path / "slow.done").exists()
    assert (tmp_path / "first.done").exists()
    assert not (tmp_path / "never.done").exists()


def test_jobs_at_the_same_time_are_in_places_of_their_own(tmp_path):
    tell = "import os, time; time.sleep(0.3); open('{}', 'w').write(os.environ['PLACE'])"
    tasks = [task(Line(name, tmp_path, tell)) for name in ("a", "b", "c")]
    slots = Slots([{"PLACE": "0"}, {"PLACE": "1"}])
    run_tasks(tasks, slots=slots, verbs=AFRESH, keeps_going=True)
    places = [task.job.file.read_text() for task in tasks]
    assert set(places[:2]) == {"0", "1"}
    assert places[2] in {"0", "1"}


def saving_job(folder):
    """A job that makes a file `ready`, waits, and saves when it is asked to stop."""
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n    open('{}', 'a').write('saved ')\n    time.sleep(0.2)\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"open('{folder}/' + sys.argv[0].replace('-c', 'ready'), 'w')\n"
        "time.sleep(30)"
    )
    return Line("long", folder, code)


def wait_for(file):
    deadline_s = time.monotonic() + 20
    while not file.exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)


def test_a_job_that_is_just_being_started_is_stopped_too(tmp_path, monkeypatch):
    start, job = AFRESH.start, saving_job(tmp_path)

    def start_and_be_stopped(call):
        process = start(call)
        wait_for(tmp_path / "ready")
        signal.raise_signal(signal.SIGTERM)
        return process

    monkeypatch.setattr(AFRESH, "start", start_and_be_stopped)
    with pytest.raises(KeyboardInterrupt):
        run_tasks([task(job)], slots=Slots([{}]), verbs=AFRESH)
    assert job.file.read_text() == "saved "


def test_a_sigterm_asks_every_job_once_and_waits_for_it(tmp_path):
    job = saving_job(tmp_path)

    def stop():
        wait_for(tmp_path / "ready")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_tasks([task(job)], slots=Slots([{}]), verbs=AFRESH, keeps_going=True)
    thread.join()
    assert job.file.read_text() == "saved "


DEAF = "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def test_a_second_request_also_ends_what_jobs_started_in_sessions_of_their_own(tmp_path):
    started = tmp_path / "started"
    rank = tmp_path / "rank.py"
    rank.write_text(f"{DEAF}open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    launcher = f"subprocess.run([sys.executable, {str(rank)!r}], start_new_session=True)"
    job = Line("launcher", tmp_path, DEAF + launcher)

    def stop():
        deadline_s = time.monotonic() + 20
        while not (started.exists() and started.read_text()) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_tasks([task(job)], slots=Slots([{}]), verbs=AFRESH, keeps_going=True)
    thread.join()
    status = Path(f"/proc/{started.read_text()}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_starts_and_ends_are_told(tmp_path):
    told = []
    run_tasks(
        [task(Line("a", tmp_path)), task(Line("b", tmp_path), 0)],
        slots=Slots([{}]),
        verbs=AFRESH,
        on_start=lambda position: told.append(("start", position)),
        on_done=lambda position: told.append(("done", position)),
    )
    assert told == [("start", 0), ("done", 0), ("start", 1), ("done", 1)]
