"""Starts Ray on this machine or joins a cluster, with little output, and queries the nodes' resources."""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.options import SearchOptions
from search.runners._ray_private import job_title
from search.runners.packing import GPU_MEMORY, GpuMemory, Node, SlotKind, cpu_slots, gpu_slots, nodes_of
from search.runners.ray_folder import VARIABLE, ray_folder
from trainable import stop_signals
from trainable.device.cap import NOT_EXPANDABLE
from trainable.errors import RunError
from trainable.host import available_cores
from trainable.memory.profile import DeviceProfile

logger = logging.getLogger(__name__)

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records of a trial replace them
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # this project handles Ctrl-C
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the study and the summary have the reason
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # a resume reads the study instead
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment variables, set before Ray is imported."""
WORKER_SECONDS = 60
"""A cluster is given so long to start its first worker before a search goes on without knowing that it can."""


@dataclass(frozen=True)
class RaySession:
    """A running Ray."""

    dashboard: str | None
    """Address of the dashboard, None without one."""
    nodes: tuple[Node, ...]
    asked: dict[str, GpuMemory] = field(default_factory=dict)
    """Memory per GPU by node, when the search began, for nodes that do not declare it."""
    gpu_names: frozenset[str] = frozenset()
    """Names of the GPUs of the nodes that were queried."""
    expandable_segments: bool = True
    """Whether all their drivers allow them."""

    @property
    def gpu(self) -> str | None:
        """Names of the cluster's GPUs, which select their profile; None without GPUs."""
        if not any(node.gpus for node in self.nodes):
            return None
        return ", ".join(sorted(self.gpu_names)) or "GPUs of unknown name"

    def nodes_now(self) -> list[Node]:
        """The initial nodes that are alive now."""
        known = {node.node_id for node in self.nodes}
        return [node for node in nodes_of(_nodes(), self.asked) if node.node_id in known]

    def slots(self, options: SearchOptions, device: str, profile: DeviceProfile | None = None) -> list[SlotKind]:
        """Kinds of slots for trials. Raises BudgetError or RunError if the machines do not suit the search."""
        if device.startswith("cuda"):
            if not any(node.gpus for node in self.nodes):
                raise RunError("no node of the cluster has a GPU; use --device cpu, or add one")
            return gpu_slots(self.nodes, options.budget_bytes, (profile or DeviceProfile()).reserve_bytes)
        return [cpu_slots(sum(node.cpus for node in self.nodes), options.concurrency)]


@contextmanager
def ray_session(options: SearchOptions, *, title: str = "search", verbose: bool = False) -> Iterator[RaySession]:
    """Runs Ray for one search, which appears as `title` in the dashboard's list of jobs.

    Token authentication keeps Ray's default (on; the token is in ``~/.ray/auth_token``), and the dashboard listens only
    on this machine.

    Raises
    ------
    RunError
        If the cluster at ``--address`` cannot be joined or runs nothing for this search, or the folder for Ray's files
        does not suit it.
    """
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    if options.address and ("RAY_AUTH_TOKEN" in os.environ or token_path().is_file()):
        # Ray looks for a token by itself only with --address auto.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    keep_token_private()
    with ExitStack() as closing:
        if not options.address:
            closing.enter_context(ray_folder())
        closing.callback(ray.shutdown)
        dashboard = _begin(options, title, logging.INFO if verbose else logging.ERROR)
        keep_token_private(new=True)
        if options.address:
            _try_worker(options.address)
        cards = _gpus()
        asked = {node_id: card.memory for node_id, card in cards.items()}
        names = frozenset(name for card in cards.values() for name in card.names)
        lacking = {sentence for card in cards.values() for sentence in card.lacking}
        # Here, since Ray shows a worker's warnings only with --verbose.
        for sentence in sorted(lacking):
            logger.warning("%s", sentence)
        nodes = tuple(nodes_of(_nodes(), asked))
        yield RaySession(dashboard, nodes, asked, names, NOT_EXPANDABLE not in lacking)


def _begin(options: SearchOptions, title: str, level: int) -> str | None:
    """Starts or joins Ray; returns the address of its dashboard, None without one."""
    import ray

    logging.getLogger("ray").setLevel(level)
    where: dict[str, Any] = {"address": options.address}
    if not options.address:
        where = {"address": "local", "num_cpus": max(available_cores(), options.workers)}
    try:
        # Ray's handlers would abort this process at SIGTERM and SIGHUP.
        with stop_signals.kept(), job_title(title):
            context = ray.init(
                **where,
                # The column "Name" of the dashboard's list of jobs.
                job_config=ray.job_config.JobConfig(metadata={"job_name": title.partition(":")[0]}),
                logging_level=level,
                log_to_driver=level == logging.INFO,
                ignore_reinit_error=False,
            )
    except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        raise _not_begun(options, error) from None
    return context.dashboard_url or None


def _not_begun(options: SearchOptions, error: Exception) -> RunError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". Ensure")[0]
    if options.address:
        what = f"the cluster at --address {options.address} cannot be joined"
        remedy = "check that it runs (ray status) and that its token is in ~/.ray/auth_token"
    else:
        what = "Ray on this machine cannot be started"
        remedy = f"check its folder ({VARIABLE} names another), and that its token is in ~/.ray/auth_token"
    return RunError(f"{what}: {reason}; {remedy}, or use --local")


def _try_worker(address: str) -> None:
    """Starts an actor as trials are started: a cluster without tokens lets a driver with one join, then loses each."""
    import ray

    class Worker:
        def started(self) -> bool:
            return True

    worker: Any = ray.remote(num_cpus=0)(Worker).remote()
    try:
        ray.get(worker.started.remote(), timeout=WORKER_SECONDS)
    except ray.exceptions.GetTimeoutError:
        logger.warning("the cluster at --address %s has started no worker in %d s; going on", address, WORKER_SECONDS)
    except ray.exceptions.ActorDiedError:
        mode = os.environ.get("RAY_AUTH_MODE", "disabled")
        raise RunError(
            f"the cluster at --address {address} loses every worker of this search, which joined with RAY_AUTH_MODE="
            f"{mode}: start the cluster with the same mode and token, or set this variable to the mode that it was "
            "started with"
        ) from None


def token_path() -> Path:
    """File with the dashboard's token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()


def keep_token_private(*, new: bool = False) -> None:
    """Takes the token's file from all but its owner: Ray, and ``ray get-auth-token``, make it readable to everybody.

    Parameters
    ----------
    new
        Whether Ray has just made it, so that nobody need be told.
    """
    path = token_path()
    try:
        if not path.exists() or not stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
            return
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    except OSError as error:  # a secret that a cluster mounts, for example
        logger.warning("%s, Ray's token, can be read by every user of this machine: %s", path, error.strerror)
        return
    if not new:
        logger.warning("%s, Ray's token, could be read by every user of this machine; now only by its owner", path)


def _nodes() -> list[dict[str, Any]]:
    import ray

    return list(ray.nodes())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Cards:
    """GPUs of a node."""

    memory: GpuMemory
    """Of the smallest GPU, and the most that is taken of one."""
    names: frozenset[str]
    lacking: frozenset[str] = frozenset()
    """What keeping a budget lacks on the first of them (`trainable.device.cap.shortcomings`)."""


def _gpus() -> dict[str, _Cards]:
    """The GPUs of each node that does not declare their memory, queried on the node itself."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0, max_retries=1)
    def cards() -> _Cards:
        import torch

        from trainable.device.cap import card_of, shortcomings

        indices = range(torch.cuda.device_count())
        all_of_them = [card_of(f"cuda:{index}", reserve_bytes=0) for index in indices]
        memory = GpuMemory(
            total_bytes=min(card.total_bytes for card in all_of_them),
            taken_bytes=max(card.taken_bytes for card in all_of_them),
        )
        names = frozenset(torch.cuda.get_device_name(index) for index in indices)
        return _Cards(memory, names, frozenset(shortcomings("cuda")))

    asked = {}
    for node in _nodes():
        resources = node["Resources"]
        if node["Alive"] and resources.get("GPU") and GPU_MEMORY not in resources:
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # Needs a whole GPU for a moment: without one Ray hides the GPUs from the task.
            asked[node["NodeID"]] = cards.options(num_gpus=1, scheduling_strategy=pinned).remote()
    try:
        return {node_id: ray.get(answer, timeout=120) for node_id, answer in asked.items()}
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayTaskError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(
            f"a GPU node does not report its GPU memory: {reason}; "
            f"declare it when starting the node: ray start --resources '{{\"{GPU_MEMORY}\": 24576}}'"
        ) from None
