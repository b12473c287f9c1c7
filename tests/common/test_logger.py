import logging

from video_llama.common.logger import (
    LOG_FILE,
    get_logger,
    log_to_folder,
    start_logging,
    stop_logging_to,
)


def test_a_long_event_stays_on_one_line(capsys):
    start_logging()
    get_logger().info("word " * 100)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_starting_twice_does_not_say_everything_twice(capsys):
    start_logging()
    start_logging()
    get_logger().info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_other_ranks_show_errors_only(capsys, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    start_logging()
    get_logger().info("hidden")
    get_logger().error("shown")
    shown = capsys.readouterr().err
    assert "shown" in shown
    assert "hidden" not in shown


def test_the_folder_keeps_what_was_said(tmp_path):
    handler = log_to_folder(tmp_path)
    get_logger().info("kept")
    stop_logging_to(handler)
    get_logger().info("too late")
    text = (tmp_path / LOG_FILE).read_text()
    assert "INFO kept" in text
    assert "too late" not in text


def test_other_ranks_write_no_file(tmp_path, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert log_to_folder(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_logger_is_the_package_s():
    assert get_logger() is logging.getLogger("video_llama")
