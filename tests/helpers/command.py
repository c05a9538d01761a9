"""What a command says."""


def error_of(capsys):
    """What a command wrote to stderr: one sentence."""
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err
