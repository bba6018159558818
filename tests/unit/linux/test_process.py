"""Programs of the host: what they say, what they get, and that they end."""

from __future__ import annotations

import os
import select

import pytest

from sandhold.linux.process import LINE_BYTES_MAX, run_lines

END_S_MAX = 20.0  # far beyond the clean-up that `run_lines` waits for


def _said(script: str, **options: float) -> tuple[int, list[str]]:
    lines: list[str] = []
    status = run_lines(["sh", "-c", script], lines.append, timeout_s=options.get("timeout_s", END_S_MAX))
    return status, lines


def test_lines_come_as_they_are_said() -> None:
    """Both outputs are passed on in order, also a last line without its end, and the status is the program's own."""
    assert _said("echo one; echo two >&2; echo; printf three; exit 3") == (3, ["one", "two", "three"])


def test_a_line_has_a_limit() -> None:
    """A line that never ends does not grow in memory: it comes in pieces."""
    status, lines = _said(f"head -c {3 * LINE_BYTES_MAX} /dev/zero | tr '\\0' x; echo; echo end")
    assert max(map(len, lines)) <= LINE_BYTES_MAX
    assert (status, lines[-1]) == (0, "end")


def test_bytes_that_are_no_text_are_replaced() -> None:
    """What a program says is shown, never trusted to be UTF-8."""
    assert _said("printf '\\377\\n'") == (0, ["\N{REPLACEMENT CHARACTER}"])


def test_the_environment_is_only_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's environment reaches a program unasked."""
    monkeypatch.setenv("SBX_SECRET", "value")
    lines: list[str] = []
    assert run_lines(["env"], lines.append, timeout_s=END_S_MAX, env={"GIVEN": "yes"}) == 0
    assert not [line for line in lines if "SECRET" in line]
    assert "GIVEN=yes" in lines


def test_a_program_that_takes_too_long_is_ended_with_all_it_started() -> None:
    """After the time-out no process of the group holds a descriptor any more."""
    reading, writing = os.pipe()
    try:
        with pytest.raises(TimeoutError, match="did not end within"):
            run_lines(["sh", "-c", "sleep 600 & wait"], lambda _: None, timeout_s=0.2, keep=[writing])
        os.close(writing)
        writing = -1
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        assert poll.poll(END_S_MAX * 1000)
        assert os.read(reading, 1) == b""
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def test_an_error_while_reading_ends_the_program() -> None:
    """Whoever stops listening leaves nothing running: the call returns only when the program has ended."""

    def stop(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt, match="started"):
        run_lines(["sh", "-c", "echo started; exec sleep 600"], stop, timeout_s=END_S_MAX)
