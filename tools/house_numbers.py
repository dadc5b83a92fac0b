"""The house in numbers: what lies at the root, who imports whom, and how much of long functions is prose.

    python tools/house_numbers.py [CHECKOUT]

A sign, not a target: a comment that repeats its line is worse than none.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

LONG_FUNCTION_LINES = 20


def num_lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def main(root: Path) -> None:
    package = root / "translate"
    files = {path.relative_to(package): path.read_text() for path in sorted(package.rglob("*.py"))}
    at_the_root = [path for path in files if len(path.parts) == 1]
    longest = max(files, key=lambda path: len(files[path].splitlines()))
    print(f"root: {len(at_the_root)} files of {sum(len(files[path].splitlines()) for path in at_the_root):,} lines, "
          f"{len({path.parts[0] for path in files if len(path.parts) > 1})} folders")

    # Lines: of all, how many are comments, docstrings or blank.
    lines, comments, docstrings, blank = 0, 0, 0, 0
    for text in files.values():
        lines += len(text.splitlines())
        blank += sum(not line.strip() for line in text.splitlines())
        comments += len(comment_lines(text))
        docstrings += sum(num_lines(node.body[0]) for node in ast.walk(ast.parse(text))
                          if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node))
    print(f"package: {len(files)} files, {lines:,} lines: {lines - comments - docstrings - blank:,} of code, "
          f"{comments:,} of comments, {docstrings:,} of docstrings, {blank:,} blank; longest {longest}, "
          f"{len(files[longest].splitlines())} lines")

    # Imports between the rooms of the root: files and folders.
    arrows = Counter((room(path), there) for path, text in files.items() for there in imported(text) - {room(path)})
    print(f"imports between rooms of the root: {len(arrows)} arrows, {sum(arrows.values())} files that import")

    # Prose in long functions, docstrings left out.
    inside, written, empty, num = 0, 0, 0, 0
    for text in files.values():
        marks = comment_lines(text)
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef):
                continue
            first = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.body[0].lineno
            span = range(first, node.lineno + num_lines(node))
            if len(span) < LONG_FUNCTION_LINES:
                continue
            num, inside = num + 1, inside + len(span)
            written += len(marks & set(span))
            empty += sum(not text.splitlines()[number - 1].strip() for number in span)
    print(f"functions of {LONG_FUNCTION_LINES} lines and more: {num}; of their {inside:,} lines "
          f"{100 * written / inside:.1f} % are comments and {100 * empty / inside:.1f} % blank")


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imported(text: str) -> set[str]:
    """The rooms of the root that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("translate.")}
    return found


def comment_lines(text: str) -> set[int]:
    """The numbers of lines that hold a comment and nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT
            and not token.line[:token.start[1]].strip()}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent)
