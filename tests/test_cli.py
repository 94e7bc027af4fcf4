"""What leaves a command: results, one line for a fault, nothing that a terminal obeys."""

import logging
import os
import signal
import sys
import time
import warnings

import pytest

from varpro_nn import _cli
from varpro_nn._cli import make_parser, parse, run_command, tell
from varpro_nn._settings import check_known
from varpro_nn.errors import DatasetError
from varpro_nn.linalg import column_tiles


def failing(error):
    def lines():
        yield "first"
        raise error

    return lines


def our_check():
    check_known({"colour": 3}, {})


def a_bug():
    _, _ = column_tiles(0)  # not enough values to unpack


def a_bug_in_a_library():
    os.fsdecode(3)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DatasetError("x.npz: is damaged"), "x.npz: is damaged"),
        (OSError(28, "No space left", "model.npz"), "[Errno 28] No space left: 'model.npz'"),
        (MemoryError(), "MemoryError"),
    ],
    ids=["ours", "disk", "memory"],
)
def test_a_fault_is_one_line(error, said, capsys):
    assert run_command(failing(error)) == 1
    assert capsys.readouterr() == ("first\n", f"error: {said}\n")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (our_check, "error: unknown settings colour.\n"),
        (a_bug, "error: ValueError: not enough values to unpack (expected 2, got 0) (unexpected: "),
        (a_bug_in_a_library, "error: TypeError: expected str, bytes or os.PathLike object, not "),
        ({}.popitem, "error: KeyError: 'popitem(): dictionary is empty' (unexpected: "),
    ],
)
def test_an_error_of_the_code_is_told_from_one_of_the_user(fault, said, capsys):
    """A ValueError may be either."""

    def lines():
        yield str(fault())

    assert run_command(lines) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(said)
    assert ("unexpected: probably a bug in varpro_nn; -v shows" in err) is (fault != our_check)


@pytest.mark.parametrize("command", ["train", "predict", "export"])
def test_every_command_shows_with_v_where_an_error_arose(command, capsys, caplog):
    args = parse(make_parser(command, "", ""), ["-v"])
    assert args.verbose == 1
    with caplog.at_level(logging.INFO, "varpro_nn"):
        run_command(failing(DatasetError("no data")))
    assert "in lines\n    raise error" in caplog.text


def test_the_log_shows_no_control_characters():
    record = logging.makeLogRecord({"msg": "%s", "args": ("\x1b[2Jone\ntwo",)})
    assert _cli._Formatter().format(record) == "\\x1b[2Jone\ntwo"


def test_warnings_of_the_log_look_like_all_others():
    record = logging.makeLogRecord(
        {"levelno": logging.WARNING, "levelname": "WARNING", "msg": "%s", "args": ("one\ntwo",)}
    )
    assert _cli._Formatter(logging.BASIC_FORMAT).format(record) == "warning: one two"


NAME = "a\x1b]0;mine\x07b\x9b31m\u202e\ud800.npz"
SHOWN = r"a\x1b]0;mine\x07b\x9b31m\u202e\ud800.npz"


def test_names_of_files_cannot_command_a_terminal(capsys):
    run_command(failing(OSError(2, NAME)))
    run_command(failing(KeyboardInterrupt(NAME)))
    tell(NAME)
    err = capsys.readouterr().err
    assert err == f"error: [Errno 2] {SHOWN}\ninterrupted: {SHOWN}\n{SHOWN}\n"
    with pytest.raises(SystemExit):
        parse(make_parser("train", "", ""), [NAME])
    assert SHOWN in capsys.readouterr().err


@pytest.mark.parametrize(("terminal", "shown"), [(True, SHOWN[:-10]), (False, NAME[:-5])])
def test_results_are_as_they_are_except_on_a_terminal(terminal, shown, capsys, monkeypatch):
    name = NAME[:-5]  # without half a pair, which StringIO cannot encode
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert run_command(lambda: [name]) == 0
    assert capsys.readouterr().out == f"{shown}\n"


def test_names_that_are_no_text_leave_byte_for_byte(tmp_path, monkeypatch):
    with open(tmp_path / "out", "w", encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        parse(make_parser("export", "", ""), [])
        assert run_command(lambda: [os.fsdecode(b"\xff.onnx")]) == 0
    assert (tmp_path / "out").read_bytes() == b"\xff.onnx\n"


def test_a_warning_is_one_line(capsys):
    before = warnings.formatwarning
    run_command(lambda: [warnings.formatwarning("one\ntwo\x1b", UserWarning, "file.py", 3)])
    assert capsys.readouterr().out == "warning: one two\\x1b\n\n"
    assert warnings.formatwarning is before


def test_a_usage_error_is_two_lines(capsys):
    parser = make_parser("train", "", "")
    for number in range(100):
        parser.add_argument(f"--option-{number}")
    with pytest.raises(SystemExit) as stop:
        parse(parser, ["--optoin-1", "3"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "python -m varpro_nn.train: error: unrecognized arguments: --optoin-1 3; did you mean "
        "--option-1?\nSee python -m varpro_nn.train --help.\n"
    )


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_streams_that_are_closed_are_opened_on_nothing(name, monkeypatch, capfd):
    monkeypatch.setattr(sys, name, None)
    parse(make_parser("predict", "", ""), [])
    assert run_command(failing(DatasetError("no data"))) == 1
    with getattr(sys, name):
        pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_results_that_cannot_be_written_are_an_error(monkeypatch, capsys):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run_command(lambda: ["result"]) == 1
    assert "No space left on device: 'standard output'" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_error(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert run_command(lambda: ["result"]) == 0
    assert capsys.readouterr().err == ""


def test_a_pipe_that_breaks_in_the_work_is_an_error(capsys):
    """To a worker, say: the results were not printed."""
    assert run_command(failing(BrokenPipeError(32, "Broken pipe"))) == 1
    assert "Broken pipe" in capsys.readouterr().err


def test_sigterm_ends_the_work_as_an_interrupt(capsys):
    """So that temporary files are removed on the way out."""
    cleaned = []

    def lines():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
            yield "done"
        finally:
            cleaned.append(True)

    assert run_command(lines) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_sigterm_that_is_ignored_stays_ignored(capsys):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run_command(lambda: [str(os.kill(os.getpid(), signal.SIGTERM))]) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
