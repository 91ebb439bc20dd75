"""What we lean on in Ray and torch beyond what they promise, tried on the installed releases.

A new release that lacks something fails here, each time with the name, what it is for, and the release that the code
was written for; everything else that then fails, fails for that.
"""

import inspect
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.module_tracker import ModuleTracker

from search.runners import _ray_private, ray_session
from tests.reader import ROOT
from trainable.device import _torch_private
from trainable.private_name import PrivateName, PrivateNameError, replaced

NAMES = [*_torch_private.NAMES, *_ray_private.NAMES]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name.module}.{name.name}")
def test_a_private_name_is_there(name: PrivateName) -> None:
    if name is _torch_private.CLEAR_WORKSPACES and not torch.backends.cuda.is_built():
        stubs = Path(torch.__file__).parent / "_C" / "__init__.pyi"  # the same of every build
        assert f"def {name.name}() -> None" in stubs.read_text(), f"a build with CUDA would have no {name.name}"
        return
    try:
        found = name.get()
    except PrivateNameError as error:
        pytest.fail(str(error), pytrace=False)
    assert callable(found)


def test_a_name_that_is_gone_is_one_clear_message():
    for gone in (
        PrivateName("torch", "torch._C", "gone", "counts sheep", "2.11"),
        PrivateName("torch", "torch.gone", "gone", "counts sheep", "2.11"),
        PrivateName("torch", "torch.amp", "GradScaler.gone", "counts sheep", "2.11"),
    ):
        wanted = rf"^torch {re.escape(torch.__version__)} has no {gone.module}\.{gone.name}, which counts sheep; "
        with pytest.raises(PrivateNameError, match=wanted + r"this was written for torch 2\.11: install that"):
            gone.get()


def test_no_other_module_uses_private_names_or_mocks():
    """All are in `_torch_private` and `_ray_private`; Optuna's are in modules of their own."""
    private = re.compile(r"\b(torch|ray)(\.\w+)*\._(?!_)\w+|from (torch|ray)[.\w]* import _|unittest")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for package in ("search", "spaces", "trainable", "analysis", "benchmarks")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name not in ("_torch_private.py", "_ray_private.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if private.search(line) and not re.search(r"import \w+ as|_torch_private|_ray_private", line)
    ]
    assert not found, "\n".join(found)


def test_an_attribute_is_replaced_for_the_time_of_the_block():
    class Kind:
        def word(self) -> str:
            return "own"

    module, thing = SimpleNamespace(word="own"), Kind()
    with replaced(module, "word", "other"), replaced(thing, "word", lambda: "other"):
        assert (module.word, thing.word()) == ("other", "other")
    assert (module.word, thing.word()) == ("own", "own")
    assert "word" not in vars(thing)
    with pytest.raises(KeyError), replaced(module, "word", "other"):
        raise KeyError
    assert module.word == "own"


# ---- torch -----------------------------------------------------------------------------------------------------------


def backward_is_seen() -> None:
    seen: list[bool] = []
    tracker = ModuleTracker()
    value = torch.ones(2, requires_grad=True)
    value.register_hook(lambda _: seen.append(tracker.is_bw))
    value.sum().backward()
    assert seen == [True]
    assert not tracker.is_bw


def a_scaler_has_two_tensors() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert list(_torch_private.scaler_tensors(scaler)) == []
    scaler.scale(torch.ones(()))
    scale, counter = _torch_private.scaler_tensors(scaler)
    assert (scale.item(), scale.dtype, counter.item(), counter.dtype) == (8.0, torch.float32, 0, torch.int32)


def fused_adamw_runs_on_meta() -> None:
    weight = torch.nn.Parameter(torch.empty(3, device="meta"))
    weight.grad = torch.empty_like(weight)
    before = _torch_private.FUSED_DEVICES.get()
    with _torch_private.fused_optimizer_on_meta():
        optimizer = torch.optim.AdamW([weight], fused=True)
        optimizer.step()
    assert optimizer.state[weight]["exp_avg"].device.type == "meta"
    assert _torch_private.FUSED_DEVICES.get() is before


def a_mode_sees_operators_on_meta() -> None:
    seen = []

    class Mode(_torch_private.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        torch.empty(2, device="meta").add(1)
    assert seen[-1] is torch.ops.aten.add.Tensor


def a_storage_is_one_object_whose_end_is_told() -> None:
    tensor, freed = torch.empty(2, device="meta"), []
    view = tensor[:1]
    assert tensor.untyped_storage() is view.untyped_storage()
    watched = weakref.ref(tensor.untyped_storage(), freed.append)
    del tensor
    assert freed == []
    del view
    assert freed == [watched]


# ---- Ray -------------------------------------------------------------------------------------------------------------


def ray_tune_tells_what_the_runner_asks() -> None:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in (
            (TuneController, ("get_live_trials", "stop_trial", "request_stop_experiment")),
            (Trial, ("init_local_path", "pickled_error_file", "error_file", "PENDING")),
            (TrialScheduler, ("STOP", "CONTINUE", "choose_trial_to_run", "on_trial_add", "on_trial_remove")),
            (Searcher, ("FINISHED", "suggest", "on_trial_complete")),
        )
        for name in names
        if not hasattr(owner, name)
    ]
    assert not missing, missing
    assert "self.temporary_state" in inspect.getsource(Trial)
    assert "ray_actor" in inspect.getsource(inspect.getmodule(Trial))


def ray_says_how_a_worker_was_lost() -> None:
    import ray

    assert isinstance(ray.exceptions.RayActorError().actor_init_failed, bool)
    assert issubclass(ray.exceptions.OutOfMemoryError, ray.exceptions.RayError)
    assert "cause" in inspect.signature(ray.exceptions.RayTaskError.__init__).parameters


def ray_reads_the_variables_that_are_set() -> None:
    import ray

    root = Path(ray.__file__).parent
    text = "".join(
        path.read_text() for part in ("tune", "_private", "_common") for path in sorted((root / part).rglob("*.py"))
    )
    wanted = {*ray_session._QUIET, "TUNE_MAX_PENDING_TRIALS_PG", "RAY_AUTH_MODE"}
    assert {name for name in wanted if name not in text} == set()


BEHAVIOURS: dict[str, tuple[str, str, Callable[[], None]]] = {
    "ModuleTracker().is_bw": (
        "torch 2.11 … 2.13",
        "tells the memory tracker whether a backward pass is running",
        backward_is_seen,
    ),
    "GradScaler's two tensors": (
        "torch 2.11 … 2.13",
        "are counted in the prediction of mixed precision",
        a_scaler_has_two_tensors,
    ),
    "fused AdamW on meta tensors": (
        "torch 2.11 … 2.13",
        "is the step that memory is predicted from",
        fused_adamw_runs_on_meta,
    ),
    "TorchDispatchMode on meta tensors": (
        "torch 2.11 … 2.13",
        "shows the memory tracker every operator",
        a_mode_sees_operators_on_meta,
    ),
    "one Python object a storage": (
        "torch 2.11 … 2.13",
        "tells the memory tracker when memory is given back",
        a_storage_is_one_object_whose_end_is_told,
    ),
    "Ray Tune's trials and controller": (
        "ray 2.60",
        "let the runner stop, take back and kill trials",
        ray_tune_tells_what_the_runner_asks,
    ),
    "Ray's errors": ("ray 2.60", "say how a trial was lost", ray_says_how_a_worker_was_lost),
    "Ray's environment variables": (
        "ray 2.60",
        "keep Ray quiet, Ctrl-C ours, and start all slots at once",
        ray_reads_the_variables_that_are_set,
    ),
}
"""What is tried, the releases it was written for, and what it is for."""


@pytest.mark.filterwarnings("ignore")  # Ray's own, of its own modules
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_behaviour_that_nobody_promises_is_there(behaviour: str) -> None:
    written_for, purpose, check = BEHAVIOURS[behaviour]
    try:
        check()
    except (AssertionError, AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
        line = f"{type(error).__name__}: {error}"
        pytest.fail(
            f"{behaviour}: written for {written_for}; it {purpose}, and is not as it was: {line}", pytrace=False
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.xdist_group("ray")
def test_a_driver_and_a_worker_have_our_names() -> None:
    """On Ray itself: a worker has its trial's name while a call lasts, the driver that of its run."""
    from search.options import SearchOptions

    with ray_session.ray_session(SearchOptions(space="synthetic", concurrency=1), title="first: python -m search.run"):
        import ray
        from ray.util.state import list_jobs

        class Worker:
            def name(self) -> str:
                _ray_private.name_process("ad_tuning 00012 latent_dim=11")
                return Path("/proc/self/cmdline").read_text().rstrip("\0")

        worker = ray.remote(Worker).remote()
        assert ray.get(worker.name.remote()) == "ray::ad_tuning 00012 latent_dim=11"
        assert [job.entrypoint for job in list_jobs(address=ray.get_runtime_context().gcs_address)] == [
            "first: python -m search.run"
        ]
