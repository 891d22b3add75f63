"""All dashboards."""

from __future__ import annotations

from scripts.dashboards.engine import DRAFTS, WORKERS
from scripts.dashboards.handoffs import HANDOFFS
from scripts.dashboards.sessions import MEMORY, SESSIONS
from scripts.dashboards.users import FRONT, OBJECTIVES

BOARDS = (OBJECTIVES, HANDOFFS, SESSIONS, MEMORY, DRAFTS, WORKERS, FRONT)
