"""Runs one search from request to results: sets up data, planner, study, conductor and runner."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from search.chosen_budget import with_budget
from search.engine.conductor import Conductor
from search.engine.feasibility import Feasibility
from search.engine.listener import BaseListener, Listener, Listeners, make_listener
from search.engine.pace import Pace
from search.engine.space_draws import refuse_several_batch_sizes
from search.first_proposals import first_proposals
from search.listeners.progress import Progress
from search.listeners.tensorboard import TensorBoardScalars
from search.listeners.terminal import make_view
from search.options import SearchOptions
from search.runners.factory import TrialFactory
from search.runners.local import LocalRunner
from search.store.checkpoints import prepare_storage
from search.store.manifest import command_line, new_manifest, resumed_manifest
from search.store.run_store import RunStore
from search.store.study import SearchStudy
from search.summary import print_summary, write_results
from search.winner import find_winner
from trainable.commandline import resolve_device
from trainable.data.clips import Split
from trainable.data.load import Dataset, load_dataset
from trainable.data.parallel import without_progress
from trainable.device.cap import expandable_segments_work, gpu_name
from trainable.durable import readable
from trainable.errors import ConfigError, RunError
from trainable.execution_plan import PlanRequest, micro_batch_of
from trainable.memory.planner import Planner
from trainable.memory.predict import DataSizes
from trainable.memory.profile import DeviceProfile
from trainable.printable import printable
from trainable.record import RunFolder, RunManifest, TrialRecord
from trainable.steps import told_steps
from trainable.timing.speed import Speed

if TYPE_CHECKING:
    from search.request import Request
    from search.runners.packing import SlotKind
    from search.runners.ray_session import RaySession

logger = logging.getLogger(__name__)

LEARNED_TRIALS = 20
"""Trials from before a resume that say how long an epoch takes."""


def run_search(request: "Request", console: Console) -> bool:
    """Runs a new or resumed search to its end and writes its results; returns whether any trial completed.

    Raises
    ------
    ProjectError
        For every error that the user can fix, with a one-line message.
    """
    begun = time.monotonic()
    options = request.options
    if not request.dry_run:
        prepare_storage(options)
    if options.address is None and options.device.startswith("cuda"):
        resolve_device(options.device)  # refused before recordings are read and Ray is started
    say = _stages(request, console)
    say(f"reading the recordings: {options.data.machine_type} of {options.data.source or 'the embedded machines'}")
    with without_progress() if request.quiet else nullcontext():
        dataset = load_dataset(options.data)
    for line in dataset.check_lines():
        say(line)
    # What "auto" chose is what the run records and a resume keeps.
    options = replace(options, data=replace(options.data, objective=dataset.objective.value))
    request = replace(request, options=options)
    for line in () if dataset.pseudo is None else dataset.pseudo.lines(labelled=dataset.labelled):
        say(line)
    if options.local:
        device = resolve_device(options.device)
        _check_local(options, device)
        return _run(request, console, dataset, device, None, begun)
    from search.runners.ray_session import ray_session, token_path

    if options.address is None and resolve_device(options.device) == "cpu":
        # A budget that holds no trial is refused before Ray is started. The profiles of GPUs are chosen on Ray.
        Planner.for_dataset(dataset, budget_bytes=options.budget_bytes, profile=_profile(options, "cpu", None))
    say("starting Ray")
    title = readable(f"{request.folder.name}: {command_line(request.argv)}")
    with ray_session(options, title=title, verbose=request.verbose) as ray:
        if ray.dashboard and not request.quiet:
            console.print(f"dashboard: http://{ray.dashboard} (its token is in {token_path()})", soft_wrap=True)
        device = _ray_device(options.device, ray)
        return _run(request, console, dataset, device, ray, begun)


def _run(
    request: "Request", console: Console, dataset: Dataset, device: str, ray: "RaySession | None", begun: float
) -> bool:
    request = _for_device(request, device, _stages(request, console))
    # No proposal keeps more patches than its stride yields from these clips.
    space = request.space.for_clips(int(dataset.train.lengths.max()))
    say = _stages(request, console)
    profile = _profile(request.options, device, ray)
    unlimited = Planner.for_dataset(dataset, budget_bytes=None, request=_plan_request(request), profile=profile)
    request = with_budget(request, space, unlimited, device, ray, console)
    options, folder = request.options, request.folder
    manifest = _manifest(request, dataset, device, say)
    trackers = [] if request.dry_run else [*_mlflow(request, manifest), *_wandb(request, manifest)]
    say("predicting the memory of the first trials")
    planner = unlimited.within(options.budget_bytes)
    factory = TrialFactory(dataset, planner, device, options.budget_bytes)
    slots = None if ray is None else ray.slots(options, device, profile)
    workers = _workers(options, slots)
    first = [params for params in manifest.initial if space.holds(params)]
    if request.dry_run:
        from search.dry_run import print_dry_run

        print_dry_run(console, options, space, planner, initial=first, workers=workers, device=device)
        return True
    # Before the study, so that a driver that dies at any moment leaves a resumable run or nothing that blocks one.
    _write_request(request, manifest)
    study = _study(request, manifest)
    if dataset.check is not None:
        folder.write_check(dataset.check.to_dict())
    store = RunStore(folder, study, space, budget_bytes=options.budget_bytes)
    pace = Pace(DataSizes.of(dataset), Speed.of(profile, device))
    if request.resumed is not None and (request.resumed.device == "cpu") == (device == "cpu"):
        pace.learn_from(readable_records(folder, folder.numbers()[-LEARNED_TRIALS:]))
    conductor = Conductor(
        space,
        options,
        store,
        Feasibility(space, budget_bytes=options.budget_bytes, plans=planner.plan, epochs=options.max_epochs),
        initial=first,
        pace=pace,
    )
    if conductor.asha.warning:
        logger.warning("%s", conductor.asha.warning)
    # In this process trials take turns: one epoch at a time.
    progress = _progress(conductor, folder, 1 if slots is None else workers)
    with _listeners(request, console, progress, trackers, ray) as conductor.listener:
        if slots is None:
            LocalRunner(conductor, store=store, options=options, trial_factory=factory).run()
        else:
            from search.runners.ray_tune import RayRunner

            RayRunner(
                conductor,
                store=store,
                options=options,
                trial_factory=factory,
                slots=slots,
                nodes_now=ray.nodes_now if ray is not None else None,
            ).run()
    with told_steps(console, quiet=request.quiet) as steps:
        winner = find_winner(conductor, store, dataset, replace(factory, device=_device_here(device, ray)), steps)
    seconds = time.monotonic() - begun
    write_results(conductor, store, winner, seconds=seconds, skipped=len(dataset.skipped))
    print_summary(console, conductor, store, winner, seconds=seconds, skipped=len(dataset.skipped))
    return winner is not None


def _progress(conductor: Conductor, folder: RunFolder, at_once: int) -> Progress:
    """The progress of a search that has just begun, or goes on."""
    progress = Progress(
        conductor.options,
        conductor.asha.rung_epochs,
        at_once,
        expected_gain=lambda: conductor.standing.expected_gain,
    )
    epochs = {number: trial.epoch for number, trial in conductor.running.items()}
    leaders = [folder.read_trial(number) for number in conductor.standing.kept]
    progress.resume_from(conductor.standing.counts, conductor.best, epochs, leaders)
    return progress


@contextmanager
def _listeners(
    request: "Request", console: Console, progress: Progress, trackers: Sequence[BaseListener], ray: "RaySession | None"
) -> Iterator[Listener]:
    """All that are told what happens in a search, until it ends."""
    folder = request.folder
    with ExitStack() as closing:
        view = closing.enter_context(make_view(console, progress, quiet=request.quiet))
        tensorboard = closing.enter_context(TensorBoardScalars(folder.path / "tensorboard"))
        optional: list[AbstractContextManager[Listener]] = [
            *trackers,
            *_metrics(folder.name, progress, ray),
            *(make_listener(name, folder.path) for name in request.options.listeners),
        ]
        yield Listeners([progress, view, tensorboard, *(closing.enter_context(each) for each in optional)])


def _stages(request: "Request", console: Console) -> Callable[[str], None]:
    """Prints one line per stage before the first trial."""
    return (lambda _: None) if request.quiet else lambda text: console.print(printable(text), soft_wrap=True)


def _for_device(request: "Request", device: str, say: Callable[[str], None]) -> "Request":
    """The request with the space for the device; a new run's folder gets that space."""
    if request.on_gpu is None:
        return request
    chosen, named, larger = request.on(device), request.space.name, request.on_gpu.space.name
    if chosen is request:
        say(f"space {named}: trials run on the CPU, so its sizes are for CPU cores (on a GPU it is {larger})")
        return request
    say(f"space {named}: trials run on a GPU, so {larger} is searched (--device cpu keeps the sizes for CPU cores)")
    if not request.dry_run:
        request.folder.write_text(request.folder.space_path, chosen.space.text)
    return chosen


def readable_records(folder: RunFolder, numbers: Iterable[int]) -> Iterator[TrialRecord]:
    """The records of trials; the recovery speaks of those that cannot be read."""
    for number in numbers:
        with suppress(RunError):
            yield folder.read_trial(number)


def _manifest(request: "Request", dataset: Dataset, device: str, say: Callable[[str], None]) -> RunManifest:
    options, folder = request.options, request.folder
    if request.resumed is not None:
        return resumed_manifest(
            request.resumed,
            request.space,
            options,
            argv=request.argv,
            data_digest=dataset.digest,
            device=device,
            allow_changes=request.allow_changes,
            old_space=request.old_space,
            clips=_clips(dataset),
            pseudo=_pseudo(dataset),
        )
    first = first_proposals(options.warm_start, request.space, portfolio=options.portfolio)
    for line in first.lines:
        say(line)
    return new_manifest(
        folder.name,
        request.space,
        options,
        argv=request.argv,
        data_digest=dataset.digest,
        device=device,
        clips=_clips(dataset),
        initial=first.params,
        pseudo=_pseudo(dataset),
    )


def _clips(dataset: Dataset) -> dict[str, int]:
    clips = {each.split.value: len(each) for each in (dataset.train, dataset.validation, dataset.held_out)}
    return clips if dataset.pseudo is None else {**clips, Split.HELD_BACK.value: len(dataset.pseudo.normal)}


def _pseudo(dataset: Dataset) -> dict[str, Any] | None:
    return None if dataset.pseudo is None else dataset.pseudo.to_dict()


def _write_request(request: "Request", manifest: RunManifest) -> None:
    folder = request.folder
    # The manifest before a changed space: if killed in between, a resume still asks for --allow-changes.
    folder.write_manifest(manifest)
    if request.resumed is not None and (request.old_space is None or request.old_space.text != request.space.text):
        folder.write_text(folder.space_path, request.space.text)


def _metrics(run: str, progress: Progress, ray: "RaySession | None") -> list[BaseListener]:
    if ray is None:
        return []
    from search.listeners.prometheus import RayMetrics

    return [RayMetrics(run, progress)]


def _mlflow(request: "Request", manifest: RunManifest) -> list[BaseListener]:
    """The listener for ``--mlflow``, if given."""
    if request.options.mlflow is None:
        return []
    from search.listeners.mlflow import MlflowRuns

    return [MlflowRuns(request.options.mlflow, manifest.name, space=manifest.space_name, identity=manifest.identity)]


def _wandb(request: "Request", manifest: RunManifest) -> list[BaseListener]:
    """The listener for ``--wandb``, if given."""
    if request.options.wandb is None:
        return []
    from search.listeners.wandb import WandbRuns

    folder = request.folder.path
    return [WandbRuns(request.options.wandb, space=manifest.space_name, identity=manifest.identity, folder=folder)]


def _study(request: "Request", manifest: RunManifest) -> SearchStudy:
    url = request.options.study_storage
    if url is None:
        path = request.folder.study_path
        return SearchStudy.in_folder(path, manifest.study_name, manifest.identity, objective=manifest.objective)
    return SearchStudy(url, manifest.study_name, manifest.identity, shared=True, objective=manifest.objective)


def _plan_request(request: "Request") -> PlanRequest:
    """The parts of the plan that flags fix. Raises ConfigError if they contradict the space."""
    options, space = request.options, request.space
    micro = None
    if options.gradient_accumulation_steps is not None:
        refuse_several_batch_sizes(space)
        batch_size = space.default_config(epochs=1).patch.batch_size
        micro = micro_batch_of(batch_size, options.gradient_accumulation_steps)
    return options.plan_request(micro)


def _profile(options: SearchOptions, device: str, ray: "RaySession | None") -> DeviceProfile:
    """The given profile, or that of the GPUs that the trials use."""
    given = None if options.profile is None else DeviceProfile.from_dict(options.profile)
    if device == "cpu":
        return given or DeviceProfile()
    if ray is None:
        return (given or DeviceProfile.for_gpu(gpu_name(device))).with_segments(expandable_segments_work(device))
    # A cluster's GPUs were queried on the nodes: a CUDA context in this process would take GPU memory.
    return (given or DeviceProfile.for_gpu(ray.gpu)).with_segments(ray.expandable_segments)


def _workers(options: SearchOptions, slots: "list[SlotKind] | None") -> int:
    if slots is None:
        return options.workers
    count = sum(kind.count for kind in slots)
    return count if options.concurrency is None else min(count, options.concurrency)


def _check_local(options: SearchOptions, device: str) -> None:
    """Raises ConfigError for several trials in one process on a GPU: they would share one trial's memory cap."""
    if device != "cpu" and options.workers > 1:
        raise ConfigError(
            f"--local --concurrency {options.concurrency} would run {options.concurrency} trials in this process "
            "within the memory budget of one; remove --concurrency, or remove --local to pack them on the GPU"
        )


def _device_here(device: str, ray: "RaySession | None") -> str:
    """Where the driver scores what the trials have trained: where they did, unless that is on a cluster's GPUs."""
    return device if ray is None or device == "cpu" else resolve_device("auto")


def _ray_device(name: str, ray: "RaySession") -> str:
    """The device that the cluster's trials use."""
    if name == "auto":
        return "cuda" if any(node.gpus for node in ray.nodes) else "cpu"
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"--device is {name!r}; it must be cpu, cuda or auto")
    return name
