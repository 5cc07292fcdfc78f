"""`python -m infra.plan`."""

from __future__ import annotations

import sys

from infra.plan.plan import main

sys.exit(main())
