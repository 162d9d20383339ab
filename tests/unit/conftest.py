"""How much the property tests try: HYPOTHESIS_PROFILE=long tries a hundred times as much."""

import os

from hypothesis import Phase, settings

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink)
settings.register_profile("short", deadline=None, max_examples=60, print_blob=True, phases=PHASES)
settings.register_profile("long", settings.get_profile("short"), max_examples=6000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
