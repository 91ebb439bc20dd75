"""All yardsticks."""

from trainable.yardsticks.autoencoder import Autoencoder
from trainable.yardsticks.base import Yardstick
from trainable.yardsticks.idnn import IDNN
from trainable.yardsticks.log_mel import LogMelMahalanobis
from trainable.yardsticks.pca_codes import PCACodes
from trainable.yardsticks.twfr import TWFR

YARDSTICKS: tuple[type[Yardstick], ...] = (LogMelMahalanobis, TWFR, PCACodes, Autoencoder, IDNN)
CHEAP = tuple(each for each in YARDSTICKS if not each.trained)
"""Those that take seconds: every search and report compares its winner with them."""


def title_of(name: str) -> str:
    """What tables call the yardstick of this name; the name itself if there is none, as in a newer run's summary."""
    return {each.name: each.title for each in YARDSTICKS}.get(name, name)
