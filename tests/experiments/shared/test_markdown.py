from experiments.shared.tables import print_table


def test_print_table(capsys):
    print_table([{"a": "1", "b": "2"}, {"a": "3", "b": "4"}], "Title")
    assert capsys.readouterr().out.splitlines() == [
        "", "**Title**", "", "| a | b |", "| --- | --- |", "| 1 | 2 |", "| 3 | 4 |",
    ]  # fmt: skip
    print_table([{"a": "1"}], "Title", "What a is.")
    assert capsys.readouterr().out.splitlines() == [
        "", "**Title**", "", "What a is.", "", "| a |", "| --- |", "| 1 |",
    ]  # fmt: skip
