"""Numbered cases, each chunk in a process of its own: a crash or a hang costs one case."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["SECONDS", "Prepare", "main", "run_cases"]

SECONDS = 10
"""Of processor time that a case may take: a busy machine is not a hang."""

CHUNK = 200
"""Cases that one process runs."""

Prepare = Callable[[Path], Callable[[int], str]]
"""Given an empty folder: a function from the number of a case to what is wrong, or to ""."""


def run_cases(prepare: Prepare, numbers: Iterable[int]) -> dict[int, str]:
    """Number -> what is wrong, of the cases of which something is."""
    context = multiprocessing.get_context("fork")
    wrong: dict[int, str] = {}
    numbers = list(numbers)
    with tempfile.TemporaryDirectory() as folder:
        case = prepare(Path(folder))
        for start in range(0, len(numbers), CHUNK):
            chunk = numbers[start : start + CHUNK]
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(case, chunk, sender))
            process.start()
            sender.close()
            done = set()
            with contextlib.suppress(EOFError):
                while receiver.poll(12 * SECONDS):
                    number, reason = receiver.recv()
                    done.add(number)
                    wrong |= {number: reason} if reason else {}
            if left := [number for number in chunk if number not in done]:
                process.kill()
                wrong[left[0]] = "it crashed, or does not end"
            process.join()
            receiver.close()
    return wrong


def _work(case: Callable[[int], str], chunk: Iterable[int], sender: Any) -> None:
    for number in chunk:
        sender.send((number, case(number)))


def main(title: str, prepare: Prepare) -> None:
    """Run as many cases as the command line asks for, and print what is wrong."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="Number of the first case.")
    arguments, begin = parser.parse_args(), time.monotonic()
    wrong = run_cases(prepare, range(arguments.first, arguments.first + arguments.cases))
    seconds = time.monotonic() - begin
    print(f"{arguments.cases:,} cases in {seconds:.0f} s, {len(wrong)} wrong")
    for number, reason in wrong.items():
        print(number, reason)
    sys.exit(bool(wrong))
