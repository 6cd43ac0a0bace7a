"""What every suite shares: how hard hypothesis tries."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SUPPRESSED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

settings.register_profile("dev", deadline=None, max_examples=150, suppress_health_check=_SUPPRESSED)
settings.register_profile("ci", deadline=None, max_examples=250, derandomize=True, suppress_health_check=_SUPPRESSED)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
