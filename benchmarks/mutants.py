"""Finds faults of the mathematics that the tests would not detect: draws mutations, and runs the tests on each.

  python benchmarks/mutants.py
  python benchmarks/mutants.py --seed=1 --count=100 --workers=2

The mutations are those of `_mutations.py`, of every module of the mathematics and of `training/state.py`,
`training/step.py` and `runs/chain.py`, each equally likely. In a copy of the repository, the tests that import the
changed module, or a module that imports it, run file by file, the most specific first, until one fails; a test that
runs far longer than on the unchanged module counts as failed. Every file of tests is first run on the unchanged module,
and must pass. Every result is a line of the file `--results`, so the same command resumes; it tries the mutations that
survived again if anything has changed since.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from _mutations import Mutation, drawn

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]
OTHERS = ("training/state", "runs/chain", "training/step")  # beside the mathematics
WARM = (
    "jax",
    "flax.linen",
    "optax",
    "scipy.stats",
    "orbax.checkpoint",
    "ml_collections",
    "tqdm",
    "PIL.Image",
    "pytest",
)
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "PYTEST_XDIST_WORKER": "mutants",  # so that tests/conftest.py leaves the folder of compiled programs as it is
}


class Verdict(NamedTuple):
    """The result of one file of tests: "passed", or how it failed, at which test, after how many seconds."""

    outcome: str
    test: str
    seconds: float


Job: TypeAlias = Generator[tuple[str, float], Verdict, dict[str, Any]]
"""A coroutine that yields a file of tests and a limit in seconds, receives the `Verdict`, returns a line of results."""


def mutated_files() -> list[str]:
    """The mathematics, and `OTHERS`."""
    files = sorted((ROOT / "ddpm_jax" / "diffusion").rglob("*.py")) + [ROOT / f"ddpm_jax/{name}.py" for name in OTHERS]
    return [str(path.relative_to(ROOT)) for path in files]


@cache
def imported(file: str) -> set[str]:
    """The files of the repository that a file imports."""
    names = []
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    places = [(folder, name.split(".")) for name in names for folder in (ROOT, ROOT / "tests")]
    found = (file_of(folder, parts) or file_of(folder, parts[:-1]) for folder, parts in places)
    return {str(path.relative_to(ROOT)) for path in found if path}


def file_of(folder: Path, parts: list[str]) -> Path | None:
    """The file of a module, or None if the repository does not have this module."""
    path = folder.joinpath(*parts)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if parts and p.is_file()), None)


@cache
def distances(test: str) -> dict[str, int]:
    """The modules that tests reach, by the number of imports: through packages and helpers, then one module more."""
    found, now, beyond = {}, {test}, set()
    for distance in range(1, 9):
        now = {file for one in now for file in imported(one)} - found.keys()
        found.update(dict.fromkeys(now, distance))
        beyond |= now
        now = {file for file in now if file.endswith("__init__.py") or file.startswith("tests/")}
    return {**{file: 9 for one in beyond for file in imported(one)}, **found}


def tests_of(mutation: Mutation) -> list[str]:
    """The tests that import the module, file by file: first its own and those that name the changed definition."""
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    name, stem = re.compile(rf"\b{mutation.inside or '-'}\b"), Path(mutation.file).stem

    def order(test: str) -> tuple[bool, bool, bool, bool, tuple[int, int], str]:
        text, own = (ROOT / test).read_text(), Path(test).stem == f"test_{stem}"
        named, slow = name.search(text) is not None, "mark.slow" in text
        near = len(Path(test).parts), distances(test)[mutation.file]
        return not (named and own), not named, not own, slow, near, test

    return sorted((test for test in files if mutation.file in distances(test)), key=order)


class Slot:
    """A copy of the repository in which one file of tests runs at a time, in a process forked from this one."""

    def __init__(self, folder: Path) -> None:
        self.copy, self._spare = folder / "copy", folder
        always = shutil.ignore_patterns(".git", "*venv*", "__pycache__", ".*_cache", "shared")

        def left_out(folder: str, names: list[str]) -> set[str]:
            return always(folder, names) | ({"runs"} if Path(folder) == ROOT else set())

        shutil.copytree(ROOT, self.copy, ignore=left_out)
        self._child, self._begin, self._limit, self._test = 0, 0.0, 0.0, ""  # nothing runs yet

    def write(self, file: str, text: str) -> None:
        """Changes one file of the copy."""
        (self.copy / file).write_text(text)

    def start(self, test: str, limit: float) -> None:
        """Starts a file of tests."""
        self._test, self._begin, self._limit = test, time.monotonic(), limit
        shutil.rmtree(self._spare / "tmp", ignore_errors=True)
        (self._spare / "verdict").unlink(missing_ok=True)
        self._child = os.fork()
        if not self._child:
            _run_tests(self.copy, test, self._spare)

    def poll(self) -> Verdict | None:
        """The verdict, or None while the tests run."""
        seconds = time.monotonic() - self._begin
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid and seconds < self._limit:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child, signal.SIGKILL)
        if not pid:
            os.waitpid(self._child, 0)
            return Verdict("timeout", self._test, seconds)
        verdict = self._spare / "verdict"
        if status or not verdict.exists():
            return Verdict("crash", self._test, seconds)
        outcome, failed = json.loads(verdict.read_text())
        return Verdict(outcome, failed or self._test, seconds)


def _run_tests(copy: Path, test: str, spare: Path) -> None:
    """In the forked process: runs a file of tests in the copy, writes "passed" or "failed" and where, and ends."""
    try:
        os.setsid()
        output = os.open(spare / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(output, number)
        os.chdir(copy)
        sys.path[:] = [path for path in sys.path if path not in ("", str(ROOT), str(ROOT / "benchmarks"))]
        watch, pytest = _FirstFailure(copy), sys.modules["pytest"]
        options = ["-x", "-n0", "-q", "--tb=short", "-p", "no:cacheprovider", "-o", "addopts="]
        status = pytest.main([*options, f"--basetemp={spare / 'tmp'}", test], plugins=[watch])
        if watch.ours:
            (spare / "verdict").write_text(json.dumps(["failed" if status else "passed", watch.test]))
    finally:
        os._exit(0)


class _FirstFailure:
    """A plugin of pytest that keeps which test fails first, and whether the tested package is that of the copy."""

    def __init__(self, copy: Path) -> None:
        self.test, self.ours, self._copy = "", True, copy

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        """Keeps the name of the first test that fails."""
        if report.failed:
            self.test = self.test or report.nodeid

    def pytest_sessionfinish(self) -> None:
        """Notes whether the tested package was imported from the copy."""
        package = sys.modules.get("ddpm_jax")
        self.ours = package is None or Path(package.__file__ or "").is_relative_to(self._copy)


class Results:
    """Lines of results on disk, each with a digest of the files that it holds for.

    That a mutant was killed holds for its module and the test that killed it; that a file of tests passes holds for the
    package, the tests' helpers and the file; that a mutant survived holds for the package and all tests.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        tests, package = sorted((ROOT / "tests").rglob("*.py")), sorted((ROOT / "ddpm_jax").rglob("*.py"))
        helpers = [path for path in tests if not path.name.startswith("test_")]
        self._all, self._base = _digest([*tests, *package]), _digest([*helpers, *package])
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.lines = [line for line in lines if line["of"] == self._files(line)]

    def _files(self, line: dict[str, Any]) -> str:
        """The digest for a line."""
        if line["outcome"] == "survived":
            return self._all
        if "unchanged" in line:
            return self._base + _digest([ROOT / line["unchanged"]])
        paths = [ROOT / line["mutation"]["file"], ROOT / line["test"].partition("::")[0]]
        return _digest([path for path in paths if path.exists()])

    def add(self, line: dict[str, Any]) -> None:
        """Keeps a line, on disk too."""
        line["of"] = self._files(line)
        self.lines.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def unchanged(self) -> dict[str, float]:
        """Seconds of the files of tests that have passed on the unchanged repository."""
        return {line["unchanged"]: line["seconds"] for line in self.lines if "unchanged" in line}

    def of(self, mutation: Mutation) -> dict[str, Any] | None:
        """The line of a mutation, if it was examined."""
        known = mutation._asdict()
        return next((line for line in reversed(self.lines) if line.get("mutation") == known), None)


def _digest(paths: list[Path]) -> str:
    """A short digest of some files."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def examined(mutation: Mutation, slot: Slot, results: Results) -> Job:
    """A mutation, until a test fails or none is left; each file of tests has to pass on the unchanged module first."""
    source, begin, tests = (slot.copy / mutation.file).read_text(), time.monotonic(), tests_of(mutation)
    verdict = Verdict("survived", f"{len(tests)} files", 0)
    for test in tests:
        if test not in results.unchanged:
            unchanged = yield test, 3600
            if unchanged.outcome != "passed":
                print((slot.copy.parent / "output").read_text())
                sys.exit(f"the tests fail on the unchanged repository: {unchanged.outcome} at {unchanged.test}")
            results.add({"unchanged": test, **unchanged._asdict()})
        slot.write(mutation.file, mutation.applied(source))
        answer = yield test, 60 + 5 * results.unchanged[test]
        slot.write(mutation.file, source)
        if answer.outcome != "passed":
            verdict = answer
            break
    return {"mutation": mutation._asdict(), **verdict._replace(seconds=time.monotonic() - begin)._asdict()}


def run_all(jobs: list[Callable[[Slot], Job]], slots: list[Slot], report: Callable[[dict[str, Any]], None]) -> None:
    """Runs the jobs, as many at a time as there are slots, and reports each result."""
    waiting, running = jobs[::-1], {}
    while waiting or running:
        for slot in slots:
            if slot not in running and waiting:
                running[slot] = waiting.pop()(slot)
                slot.start(*next(running[slot]))
        time.sleep(0.02)
        for slot, job in list(running.items()):
            verdict = slot.poll()
            if verdict is None:
                continue
            try:
                slot.start(*job.send(verdict))
            except StopIteration as end:
                del running[slot]
                report(end.value)


def shown(line: dict[str, Any]) -> str:
    """A result in words."""
    mutation = Mutation(**line["mutation"])
    before, after = (" ".join(text.split()) for text in (mutation.before, mutation.after))
    return f"{mutation.file}:{mutation.line}  {mutation.kind}: {before} -> {after}"


def main() -> None:
    """Prints a line for each mutation, and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the seed with which the mutations are drawn")
    parser.add_argument("--count", type=int, default=60, help="the number of mutations")
    parser.add_argument("--workers", type=int, default=1, help="the number of processes")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("runs/mutants.jsonl"),
        help="the file of results, from which the program resumes",
    )
    args = parser.parse_args()
    results = Results(args.results)
    chosen, total, same = drawn(ROOT, mutated_files(), count=args.count, seed=args.seed)
    print(f"seed {args.seed}: {len(chosen)} of {total} mutations; {same} of those drawn are equivalent to the original")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(SETTINGS)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
        for name in WARM:
            __import__(name)
        slots = [Slot(Path(folder) / str(number)) for number in range(args.workers)]
        todo = [mutation for mutation in chosen if results.of(mutation) is None]
        begin, done = time.monotonic(), []

        def report(line: dict[str, Any]) -> None:
            results.add(line)
            done.append(line)
            left = (time.monotonic() - begin) / len(done) * (len(todo) - len(done))
            how = f"{line['outcome']} ({line['test']})"
            print(f"{len(done)}/{len(todo)}, {left / 60:.0f} min left: {how} in {line['seconds']:.0f} s: {shown(line)}")
            sys.stdout.flush()

        run_all([lambda slot, m=mutation: examined(m, slot, results) for mutation in todo], slots, report)
    lines = [line for mutation in chosen if (line := results.of(mutation))]
    survivors = [line for line in lines if line["outcome"] == "survived"]
    for line in survivors:
        print(f"SURVIVED {shown(line)}")
    print(f"{len(chosen)} mutations, {len(survivors)} survivors")


if __name__ == "__main__":
    main()
