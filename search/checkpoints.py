"""Where trials' checkpoints lie, and which of them stay: those that run, and the best completed ones."""

import logging
import secrets
from collections.abc import Sequence

from search.options import SearchOptions
from trainable.checkpoint_place import CheckpointPlace, absolute_place, place_under
from trainable.errors import CheckpointError, RunError
from trainable.record import RunFolder

logger = logging.getLogger(__name__)


def checkpoint_place(options: SearchOptions, folder: RunFolder, run: str, number: int) -> CheckpointPlace:
    """Place of a trial's checkpoints: in the run's folder, or under ``--storage-path`` by the run's identity.

    Always absolute: Ray's workers run in folders of their own, where a relative path would mean another place.
    """
    if options.storage_path is None:
        return CheckpointPlace(str(folder.checkpoint_path(number).absolute()))
    return CheckpointPlace(place_under(absolute_place(options.storage_path), run, f"{number:05d}"))


def prepare_storage(options: SearchOptions) -> None:
    """Makes the place that ``--storage-path`` names and writes to it once, before anything is trained for it.

    Raises
    ------
    RunError
        If nothing can be kept there.
    """
    if options.storage_path is None:
        return
    address = absolute_place(options.storage_path)
    probe = CheckpointPlace(place_under(address, f".probe-{secrets.token_hex(6)}"))
    try:
        probe.folder.mkdir(parents=True, exist_ok=True)
        (probe.folder / "probe").write_bytes(b"probe")
        probe.push()
        probe.remove()
    except (CheckpointError, OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).replace(probe.address, address)
        raise RunError(
            f"--storage-path {address} cannot be used: {reason}; name a folder or an address that you may write to"
        ) from None
    finally:
        probe.forget_copy()


class CheckpointKeeper:
    """Removes checkpoints that nobody will load again: losers' when they end, old leaders' when they are beaten.

    With a ceiling (``--checkpoint-limit``) the last of the leaders go too, until the leaders' checkpoints fit it
    together; the best one always stays.
    """

    def __init__(self, options: SearchOptions, folder: RunFolder, run: str, leaders: Sequence[tuple[float, int]]):
        self._options, self._folder, self._run = options, folder, run
        self._kept = {number for _, number in leaders}

    def ended(self, number: int, leaders: Sequence[tuple[float, int]]) -> None:
        """Trial `number` ended; `leaders` are the best completed trials now, best first.

        A store that cannot be reached just now does not end the search: what should have gone then stays, and is
        tried again at the next ending.
        """
        self._kept |= {number}
        try:
            keep = self._within_ceiling([leader for _, leader in leaders])
            for other in self._kept - keep:
                self._place(other).remove()
        except CheckpointError as error:
            logger.warning("checkpoints that nobody needs stay for now: %s", error)
        else:
            self._kept = keep

    def _within_ceiling(self, numbers: list[int]) -> set[int]:
        ceiling = self._options.checkpoint_limit_bytes
        if ceiling is None:
            return set(numbers)
        total, keep = 0, set(numbers[:1])
        for number in numbers:
            total += self._place(number).size_bytes()
            if total <= ceiling:
                keep.add(number)
        return keep

    def _place(self, number: int) -> CheckpointPlace:
        return checkpoint_place(self._options, self._folder, self._run, number)
