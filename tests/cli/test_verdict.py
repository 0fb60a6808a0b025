"""One verdict: all commands that judge a run say the same of it."""

import pytest

from mvflow_cli.judging import verdict_lines


def headline(out):
    """What follows `verdict:` in the output of a command."""
    (line,) = (line for line in out.splitlines() if line.startswith("verdict: "))
    return line.removeprefix("verdict: ")


@pytest.fixture
def entries(monkeypatch):
    """Entries of the report that is asked for, in place of a written one."""
    import mvflow.report

    asked = []
    monkeypatch.setattr(
        mvflow.report, "write_report", lambda path, entries, **_: asked.extend(entries) or path
    )
    return asked


@pytest.mark.slow
def test_commands_agree(mvflow, copied, entries):
    before = mvflow("evaluate", copied)
    assert before.code == 0, before
    assert "Calibration: not diagnosed" in headline(before.out) or "not trust" in before.out
    diagnosed = mvflow("diagnose", copied, "--rows", 30, "--draws", 19)
    assert diagnosed.code == 0, diagnosed
    expected = headline(diagnosed.out)
    assert headline(mvflow("evaluate", copied).out) == expected
    assert expected.rstrip(".") in mvflow("compare", copied).out
    assert mvflow("report", copied).code == 0
    (entry,) = entries
    assert entry.judgement.headline == expected
    lines = list(verdict_lines(entry.judgement))
    assert diagnosed.out.splitlines()[-len(lines) :] == lines
