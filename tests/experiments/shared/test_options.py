import subprocess
import sys

import pytest

from experiments.shared.options import parser
from experiments.shared.provenance import ROOT


@pytest.mark.parametrize(
    "wrong", [["--seed", "-1"], ["--n-jobs", "0"], ["--n-jobs", "two"], ["--output", "."]]
)
def test_options_are_refused_before_anything_is_measured(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser("A table.").parse_args(wrong)
    said = capsys.readouterr().err.splitlines()[-1]
    assert wrong[0] in said
    assert "must be" in said
    assert repr(wrong[1]) in said


def test_ctrl_c_is_told_in_a_line():
    code = (
        "from experiments.shared.options import parser; parser('A table.'); raise KeyboardInterrupt"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "interrupted: rows that are kept in a file stay there\n"
    assert done.returncode != 0
