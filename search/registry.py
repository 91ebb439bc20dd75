"""What flags of a search may name, and where each lives; `trainable.registry` says how parts are registered.

`docs/extending.md` has an example of each.
"""

from trainable.registry import Registry

SAMPLERS = Registry(
    "sampler",
    {
        "tpe": "search.engine.sampler:SpaceProposer",
        "random": "search.engine.sampler:uniform_proposer",
    },
)
"""`search.engine.sampler.SamplerFactory`: what makes a `Proposer` of a space."""
LISTENERS = Registry("listener", {})
"""`search.engine.listener.ListenerFactory`: beside those that every search has, what makes one of a run's folder."""
