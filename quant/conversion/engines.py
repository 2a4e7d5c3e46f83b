"""What runs the conversions of a job: this process, one file after another, or a Ray cluster, one task a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from typing import Any

from ..errors import NoRoom, Refused, first_line, named
from .jobs import FileJob, Outcome, Work, attempt, failed
from .workers import cores

TRIES = 5  # of a file whose worker dies, before it is the file that is taken to be the reason
WAIT = 1.0  # seconds between two looks at how far all are
Tell = Callable[[str, int], object]  # told the name of a file and how many bytes of it are done
# (jobs, what is asked, tell, address of a cluster) -> each job with what became of it, in the order of their ends
Engine = Callable[[Sequence[FileJob], Work, Tell, "str | None"], Iterator[tuple[FileJob, Outcome]]]


def on_this_machine(
    jobs: Sequence[FileJob], work: Work, tell: Tell, address: str | None = None
) -> Iterator[tuple[FileJob, Outcome]]:
    """One file after another, each on all cores."""
    if address:
        raise Refused(f"--address {address}: is for an engine that has one; say --engine ray.")
    for job in jobs:
        yield job, at_once(job, work, tell)


def at_once(job: FileJob, work: Work, tell: Tell) -> Outcome:
    try:
        return attempt(job, work, lambda done: tell(job.name, done))
    except NoRoom as problem:
        return failed(str(problem))


##### Ray


def on_ray(
    jobs: Sequence[FileJob], work: Work, tell: Tell, address: str | None = None
) -> Iterator[tuple[FileJob, Outcome]]:
    """One task a file on a Ray cluster, by default one of this machine alone."""
    # a worker has the cores that it asked for, not those of its machine
    work = replace(work, options=replace(work.options, threads=work.options.threads or 1))
    with connected(address) as ray:
        progress = ray.remote(num_cpus=0, max_restarts=-1)(ByteCounts).remote()
        room = [resources(node) for node in ray.nodes() if node["Alive"]]
        fits = [job for job in jobs if not (problem := too_large(job, work, room))]
        yield from ((job, failed(problem)) for job in jobs if (problem := too_large(job, work, room)))
        waiting = {submitted(ray, job, work, progress): job for job in fits}
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=WAIT)
                pass_on(ray, progress, tell)
                yield from ((waiting.pop(ref), outcome_of(ray, ref)) for ref in ready)
        finally:
            for ref in waiting:
                ray.cancel(ref, force=True)


class ByteCounts:
    """How many bytes of each file are done, for whoever looks."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def put(self, name: str, done: int) -> None:
        self.done[name] = done

    def get(self) -> dict[str, int]:
        return self.done


def pass_on(ray: Any, progress: Any, tell: Tell) -> None:
    # a bar is no reason to fail
    with suppress(ray.exceptions.RayError):
        for name, done in ray.get(progress.get.remote(), timeout=10 * WAIT).items():
            tell(name, done)


def submitted(ray: Any, job: FileJob, work: Work, progress: Any) -> Any:
    """The task of a file. A worker that dies is replaced, by one elsewhere where there is one."""
    task = ray.remote(on_worker).options(
        name=f"convert {job.name}",
        num_cpus=work.options.threads,
        memory=job.memory,
        max_retries=TRIES,
        retry_exceptions=[NoRoom],
        scheduling_strategy="SPREAD",
    )
    return task.remote(job, work, progress)


def on_worker(job: FileJob, work: Work, progress: Any) -> Outcome:
    # what Ray cannot count: a disk that is full for this worker is raised, for it to try another
    return attempt(job, work, Seldom(job, lambda done: progress.put.remote(job.name, done)))


class Seldom:
    """Passes on a hundred steps of a file, not each."""

    def __init__(self, job: FileJob, tell: Callable[[int], object]) -> None:
        self.step, self.tell, self.last = job.size // 100, tell, 0

    def __call__(self, done: int) -> None:
        if done - self.last > self.step:
            self.last = done
            self.tell(done)


def outcome_of(ray: Any, ref: Any) -> Outcome:
    """What became of a Ray task's conversion; a failure is an outcome too."""
    try:
        outcome: Outcome = ray.get(ref)
        return outcome
    except ray.exceptions.RayTaskError as problem:
        # what a worker raised, however often it was tried: no room, or what it could not even begin
        return failed(str(problem.cause) if isinstance(problem.cause, NoRoom) else named(problem.cause))
    except ray.exceptions.RayError as problem:
        return failed(f"its worker died {TRIES + 1} times: {first_line(problem)}")


def resources(node: dict[str, Any]) -> tuple[float, float]:
    """Memory and cores of a machine."""
    return node["Resources"].get("memory", 0.0), node["Resources"].get("CPU", 0.0)


def too_large(job: FileJob, work: Work, room: Sequence[tuple[float, float]]) -> str:
    """Why no machine of the engine can take a file, which would wait for ever; "" where one can."""
    need = work.options.threads or 1
    if any(memory >= job.memory and cores >= need for memory, cores in room):
        return ""
    memory, most = max(room, default=(0.0, 0.0))
    return (
        f"{job.src}: needs {job.memory / 1e9:.1f} GB of memory and {need} cores, and the largest machine of the engine "
        f"has {memory / 1e9:.1f} GB and {most:.0f}; add a larger one."
    )


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster, or to one of this machine that ends with the block; as it is where it is already.

    What Ray prints of workers that died is dropped: it would lie among what is asked for; a file says it in the end.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise Refused(
            "engine 'ray' needs Ray, which is not installed: run pip install \"scaled-fp8[cluster]\"."
        ) from None
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        if ray.is_initialized():
            yield ray
            return
        start(ray, address)
        try:
            yield ray
        finally:
            ray.shutdown()


def start(ray: Any, address: str | None) -> None:
    """Connect this process to the Ray cluster at address, or to one of this machine alone."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not (address or os.environ.get("RAY_ADDRESS")):
        options |= {"num_cpus": cores(), "include_dashboard": False}
    try:
        ray.init(address=address, **options)
    except Exception as problem:
        where = f"--address {address}" if address else "--engine ray"
        raise Refused(f"{where}: no Ray cluster answers: {first_line(problem)}; start one: ray start --head.") from None


ENGINES: dict[str, Engine] = {"local": on_this_machine, "ray": on_ray}
