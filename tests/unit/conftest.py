"""How much the property tests try: HYPOTHESIS_PROFILE=long tries a hundred times as much."""

import os

from hypothesis import settings

settings.register_profile("short", deadline=None, max_examples=60, print_blob=True)
settings.register_profile("long", deadline=None, max_examples=6000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
