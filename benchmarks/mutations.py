"""Mutation check: single changes of the code, each tried against the tests of its own folder.

    python -m pip install cosmic-ray coverage
    python -m benchmarks.mutations --count 100 --seed 0 --out mutations.json

The mutations are those of cosmic-ray (operators, constants) and swapped arguments. A place in the
code is drawn first, then one of its mutations. Everything happens in a copy of the tree. Tests
that run the changed line are tried, the quick ones first; all of the folder for a line that runs
when it is imported. A mutation is killed if a test fails within a minute of CPU time; what
needed more, or waited, is said apart. What the file has already is not tried again.
"""

from __future__ import annotations

import argparse
import ast
import collections
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mvflow.core.files import json_text

ROOT = Path(__file__).parents[1]
CODE = (
    *("mvflow/functional", "mvflow/inference", "mvflow/systems"),
    "mvflow/training/loop.py",
)
SECONDS = 60
"""Of CPU time for a mutation; it may wait ten times as long."""
KINDS = (
    *("ReplaceBinaryOperator", "ReplaceComparisonOperator", "ReplaceUnaryOperator"),
    *("NumberReplacer", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "AddNot"),
)


class Mutation(NamedTuple):
    """One changed place of a file."""

    file: str
    line: int
    kind: str
    before: str
    after: str
    code: str
    """Of the whole file."""


def main() -> None:
    """Draw mutations, try each, and print those that no test notices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_RAW)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON of all mutations and what became of them.")
    parser.add_argument("--only", help="Numbers of the mutations to try, as in 3,17.")
    options = parser.parse_args()
    drawn = draw(options.count, random.Random(options.seed))
    chosen = [int(n) for n in options.only.split(",")] if options.only else range(len(drawn))
    results: dict[str, dict[str, Any]] = {}
    if options.out and options.out.exists():
        results = json.loads(options.out.read_text("utf-8"))
    left = [n for n in chosen if not _is_in(results, n, drawn[n])]
    with tempfile.TemporaryDirectory() as name:
        root = copied(Path(name) / "tree")
        traced = {
            folder: trace(folder, root)
            for folder in sorted({tests_of(drawn[n].file) for n in left})
        }
        for number in left:
            mutation = drawn[number]
            begin = time.monotonic()
            verdict, test = tried(mutation, root, traced[tests_of(mutation.file)])
            about = {k: v for k, v in mutation._asdict().items() if k != "code"}
            results[str(number)] = {**about, "verdict": verdict, "test": test}
            print(
                f"{number} {verdict} {mutation.file}:{mutation.line} {mutation.before.strip()} "
                f"-> {mutation.after.strip()} ({time.monotonic() - begin:.0f} s) {test}",
                flush=True,
            )
            if options.out:
                options.out.write_text(json_text(results) + "\n")
    print(collections.Counter(each["verdict"] for each in results.values()))


def _is_in(results: dict[str, dict[str, Any]], number: int, mutation: Mutation) -> bool:
    was = results.get(str(number), {})
    return (was.get("file"), was.get("after")) == (mutation.file, mutation.after)


_RAW = argparse.RawDescriptionHelpFormatter


def draw(count: int, rng: random.Random) -> list[Mutation]:
    """Places of the code, each with one of its mutations, in the order in which they are drawn."""
    places = [
        (file, place, kinds)
        for folder in CODE
        for file in sorted((ROOT / folder).rglob("*.py") if "." not in folder else [ROOT / folder])
        for place, kinds in sorted(_places(file.read_text("utf-8")).items())
    ]
    drawn: list[Mutation] = []
    rng.shuffle(places)
    for file, (line, _), kinds in places:
        text = file.read_text("utf-8")
        name, operator, occurrence = rng.choice(kinds)
        code = _mutated(text, operator, occurrence)
        if code is None or _meaning(code) == _meaning(text):
            continue  # it is in an annotation, or does not parse
        pairs = zip(text.splitlines(), code.splitlines(), strict=False)
        before, after = next(pair for pair in pairs if pair[0] != pair[1])
        path = file.relative_to(ROOT).as_posix()
        drawn.append(Mutation(path, line, name, before, after, code))
        if len(drawn) == count:
            break
    return drawn


def _places(text: str) -> dict[tuple[int, int], list[tuple[str, Any, int]]]:
    """Position -> mutations that are possible there: name, operator, which of its occurrences."""
    from cosmic_ray.ast import Visitor, get_ast

    found = collections.defaultdict(list)

    class Lister(Visitor):
        def __init__(self, name: str, operator: Any) -> None:
            self.name, self.operator, self.seen = name, operator, 0

        def visit(self, node: Any) -> Any:
            for start, _ in self.operator.mutation_positions(node):
                found[start].append((self.name, self.operator, self.seen))
                self.seen += 1
            return node

    tree = get_ast(text)
    for name, operator in _operators():
        Lister(name, operator).walk(tree)
    return found


def _operators() -> Iterator[tuple[str, Any]]:
    from cosmic_ray.plugins import get_operator, operator_names

    for name in operator_names():
        if name.partition("/")[2].startswith(KINDS):
            yield name.partition("/")[2], get_operator(name)()
    yield "SwapArguments", _swapping()


def _swapping() -> Any:
    from cosmic_ray.operators.operator import Operator

    class SwapArguments(Operator):
        """Two arguments of a call that follow each other by position change places."""

        def mutation_positions(self, node: Any) -> Iterator[Any]:
            for left, right in self._pairs(node):
                yield (left.start_pos, right.end_pos)

        def mutate(self, node: Any, index: int) -> Any:
            left, right = list(self._pairs(node))[index]
            i, k = node.children.index(left), node.children.index(right)
            node.children[i], node.children[k] = right, left
            left.get_first_leaf().prefix, right.get_first_leaf().prefix = (
                right.get_first_leaf().prefix,
                left.get_first_leaf().prefix,
            )
            return node

        @staticmethod
        def _pairs(node: Any) -> Iterator[tuple[Any, Any]]:
            if node.type != "arglist":
                return
            values = [child for child in node.children if child.type != "operator"]
            plain = [v for v in values if v.type != "argument"]
            yield from zip(plain, plain[1:], strict=False)

        @classmethod
        def examples(cls) -> Any:
            return ()

    return SwapArguments()


def _mutated(text: str, operator: Any, occurrence: int) -> str | None:
    from cosmic_ray.mutating import mutate_code

    code = mutate_code(text, operator, occurrence)
    try:
        ast.parse(code or "(")
    except SyntaxError:
        return None
    return code


def _meaning(code: str) -> str:
    """The program without its annotations, which nothing reads, and its examples."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def copied(to: Path) -> Path:
    """A copy of all that the tests need."""
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "results", "docs")
    return Path(shutil.copytree(ROOT, to, ignore=ignored))


def tests_of(file: str) -> str:
    """Folder of the tests of a file."""
    return str(Path("tests", Path(file).parts[1]))


class Traced(NamedTuple):
    """What the tests of a folder do without a mutation."""

    seconds: dict[str, float]
    """Test -> how long it took."""
    lines: dict[tuple[str, int], set[str]]
    """File and line -> tests that run it."""


def trace(folder: str, root: Path) -> Traced:
    """Run the tests of a folder unchanged; stop the program if one fails."""
    verdict, text = _tested(folder, root, lambda: _Tracing(root), 10 * SECONDS)
    if verdict != "survived":
        sys.exit(f"{folder}: {verdict} without any mutation {text}")
    seconds, lines = json.loads(text)
    print(f"{folder}: {len(seconds)} tests, {sum(seconds.values()):.0f} s", flush=True)
    return Traced(seconds, {(file, line): set(tests) for file, line, tests in lines})


def tried(mutation: Mutation, root: Path, traced: Traced) -> tuple[str, str]:
    """Whether a test notices: killed, timeout, waited or survived; and the test that does."""
    path = root / mutation.file
    original = path.read_text("utf-8")
    path.write_text(mutation.code, "utf-8")
    first = traced.lines.get((mutation.file, mutation.line), set())
    try:
        order = {test: traced.seconds[test] for test in first}
        return _tested(tests_of(mutation.file), root, lambda: _Ordering(order), SECONDS)
    finally:
        path.write_text(original, "utf-8")


class _Plugin:
    """Tells the parent something at the end."""

    text = ""

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.text = f"collection of {report.nodeid}"

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.text = report.nodeid


class _Ordering(_Plugin):
    """Some tests alone, the quick ones first; all if there are none."""

    def __init__(self, order: dict[str, float]) -> None:
        self.order = order

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.order:
            items[:] = [item for item in items if item.nodeid in self.order]
            items.sort(key=lambda item: self.order[item.nodeid])


class _Tracing(_Plugin):
    """Notes which lines each test runs, and how long it takes."""

    def __init__(self, root: Path) -> None:
        import coverage

        self.root = root
        self.seconds: dict[str, float] = {}
        self.coverage = coverage.Coverage(data_file=None, source=[str(root / "mvflow")])
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = 0.0

    def pytest_runtest_logreport(self, report: Any) -> None:
        super().pytest_runtest_logreport(report)
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = [
            (Path(file).relative_to(self.root).as_posix(), line, [c for c in contexts if c])
            for file in data.measured_files()
            for line, contexts in data.contexts_by_lineno(file).items()
        ]
        self.text = self.text or json.dumps([self.seconds, lines])


def _tested(folder: str, root: Path, plugin: Callable[[], _Plugin], limit: int) -> tuple[str, str]:
    """Run tests in a process of their own, in which large libraries are imported already."""
    import pytest
    import torch

    for name in ("scipy.stats", "zuko", "sklearn", "pydantic", "typer", "h5py", "arviz_stats"):
        importlib.import_module(name)
    torch.set_num_threads(1)
    said = root.with_suffix(".txt")
    said.write_text("")
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        verdicts: dict[int, str] = {
            signal.SIGXCPU: "timeout",
            signal.SIGKILL: "timeout",
            signal.SIGALRM: "waited",
        }
        verdict = verdicts.get(ended, "survived" if status == 0 else "killed")
        return verdict, said.read_text() or f"signal {ended}" * bool(ended)
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (limit + _spent(), limit + _spent() + 5))
        signal.alarm(10 * limit)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.chdir(root)
        places = [str(root), str(root / "cli"), str(root / "datasets")]
        sys.path[:] = places + [p for p in sys.path if p not in (str(ROOT), "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(places)
        words = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
        added = plugin()
        code = int(pytest.main([*words, "-m", "not slow", folder], plugins=[added]))
        said.write_text(added.text)
    finally:
        os._exit(code)


def _spent() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int(used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
