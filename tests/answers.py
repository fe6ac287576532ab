"""What the tests of the commands check alike: files untouched, and a refusal in one line."""

from pathlib import Path


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below ``directory``, to be compared before and after."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(answer: tuple[int, str, str], *words: str) -> bool:
    """The command said no, in one plain line that holds all ``words``. An answer is (exit code, stdout, stderr)."""
    code, _, err = answer
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert all(word in err for word in words), err
    return code != 0
