"""Where trials' checkpoints are, and which are kept: those of running trials and of the best ones."""

import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from search.engine.standing import Standing
from search.options import SearchOptions
from trainable.checkpoint_place import CheckpointPlace, absolute_place, is_url, place_under
from trainable.errors import CheckpointError, RunError
from trainable.record import RunFolder
from trainable.units import format_bytes

logger = logging.getLogger(__name__)
MEASURED_EPOCHS = 3
"""After this many epochs a trial has its final number of checkpoints: the newest two."""


def checkpoint_place(options: SearchOptions, folder: RunFolder, run: str, number: int) -> CheckpointPlace:
    """Place of a trial's checkpoints: in the run's folder, or under ``--storage-path`` by the run's identity.

    Always absolute: Ray's workers run in other folders, where a relative path would point elsewhere.
    """
    if options.storage_path is None:
        return CheckpointPlace(str(folder.checkpoint_path(number).absolute()))
    return CheckpointPlace(place_under(absolute_place(options.storage_path), run, f"{number:05d}"))


def prepare_storage(options: SearchOptions) -> None:
    """Creates the place given by ``--storage-path`` and tests that it is writable, before any training.

    Raises
    ------
    RunError
        If it cannot be written.
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
    """Removes checkpoints that will not be loaded again: those of ended trials that are not among the leaders.

    ``--checkpoint-limit`` bounds the total bytes of running and leading trials. Above it, the lowest leaders go first,
    never the best one; then, of each running trial, the checkpoints older than the newest one of a reported epoch, from
    which it would resume. Checkpoints needed to resume are never removed; if they alone exceed the limit, one warning
    is logged.
    """

    def __init__(self, options: SearchOptions, folder: RunFolder, run: str):
        self._options, self._folder, self._run = options, folder, run
        self._kept: set[int] = set()
        self._dropped: set[int] = set()
        self._bytes: dict[int, int] = {}
        self._reported: dict[int, int] = {}
        """Last epoch that each running trial has reported."""
        self._shortened: set[int] = set()
        """Running trials of which older checkpoints were removed: the next report brings one more."""
        self._left: set[int] = set()
        """Ended trials whose checkpoints could not be removed completely; each later ending retries."""
        self._warned = False

    def sweep(self, running: Iterable[int], standing: Standing) -> None:
        """Run at the start: removes what killed drivers and workers left of ended trials, and partial files.

        `standing` is told which trials have checkpoints.
        """
        running = set(running)
        with self._tolerant():
            stored = set(self._stored())
            standing.resumed(stored)
            self._kept = set(standing.kept)
            wanted = running | self._kept
            for number in stored:
                if number not in wanted:
                    self._remove(number)
                elif number in running:
                    self._place(number).remove_temporary()
                    self._reported[number] = max(
                        (each.epoch for each in self._folder.read_trial(number).epochs), default=0
                    )
            for number in wanted:
                self._bytes[number] = self._place(number).size_bytes()

    def reported(self, number: int, epoch: int, running: Iterable[int], leaders: Sequence[int]) -> None:
        """Called after each report; the trial has saved that epoch or the one before."""
        running = set(running)
        self._reported[number] = max(epoch, self._reported.get(number, 0))
        if self._options.checkpoint_limit_bytes is None or number not in running:
            return
        place = self._place(number)
        # In an object store each listing is a request; a trial's checkpoints soon have constant size and number,
        # until older ones are removed.
        if not is_url(place.address) or epoch <= MEASURED_EPOCHS or number in self._shortened:
            self._shortened.discard(number)
            with self._tolerant():
                self._bytes[number] = place.size_bytes()
                self._within_ceiling(running, leaders)

    def ended(self, number: int, leaders: Sequence[int], running: Iterable[int] = ()) -> None:
        """Called when trial `number` ended; `leaders` are those whose models are needed, the winner first.

        An unreachable store does not end the search: the checkpoints stay, and the next ending retries.
        """
        self._kept |= {number}
        with self._tolerant():
            for other in (self._kept | self._left) - set(leaders):
                self._remove(other)
            self._kept = set(leaders)
            if number in leaders:
                self._bytes[number] = self._place(number).size_bytes()
            self._within_ceiling(set(running), leaders)

    def _within_ceiling(self, running: set[int], leaders: Sequence[int]) -> None:
        ceiling = self._options.checkpoint_limit_bytes
        if ceiling is None:
            return
        leading = [number for number in leaders if number not in self._dropped]
        for number in reversed(leading[1:]):
            if self._total(running, leading) <= ceiling:
                return
            self._remove(number)
            self._dropped.add(number)
            leading.remove(number)
        for number in sorted(running, key=lambda each: -self._bytes.get(each, 0)):
            if self._total(running, leading) <= ceiling:
                return
            place = self._place(number)
            place.remove_older(self._reported.get(number, 0))
            self._shortened.add(number)
            self._bytes[number] = place.size_bytes()
        total = self._total(running, leading)
        if total > ceiling and not self._warned:
            self._warned = True
            logger.warning(
                "the checkpoints of running trials and of the best one take %s, more than --checkpoint-limit (%s); "
                "they are kept: raise the limit, or lower --concurrency",
                format_bytes(total),
                format_bytes(ceiling),
            )

    def _total(self, running: set[int], leading: list[int]) -> int:
        return sum(self._bytes.get(number, 0) for number in running | set(leading) | self._left)

    def _remove(self, number: int) -> None:
        """Removes a trial's checkpoints; what cannot be removed still counts towards the limit."""
        place = self._place(number)
        try:
            place.remove()
        except CheckpointError as error:
            if is_url(place.address):
                raise
            if number not in self._left:
                logger.warning("%s; they count towards --checkpoint-limit until they can be removed", error)
            self._left.add(number)
            self._bytes[number] = place.size_bytes()
            return
        self._left.discard(number)
        self._bytes.pop(number, None)

    def _stored(self) -> list[int]:
        """Trials that have stored checkpoints."""
        if self._options.storage_path is None:
            return [number for number in self._folder.numbers() if self._folder.checkpoint_path(number).is_dir()]
        root = place_under(absolute_place(self._options.storage_path), self._run)
        return [int(name) for name in CheckpointPlace(root).names() if name.isascii() and name.isdigit()]

    def _place(self, number: int) -> CheckpointPlace:
        return checkpoint_place(self._options, self._folder, self._run, number)

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            logger.warning("checkpoints that are no longer needed stay for now: %s", error)
