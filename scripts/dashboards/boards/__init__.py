"""All dashboards, as data."""

from __future__ import annotations

from scripts.dashboards.boards.engine import DRAFTS, WORKERS
from scripts.dashboards.boards.handoffs import HANDOFFS
from scripts.dashboards.boards.sessions import MEMORY, SESSIONS
from scripts.dashboards.boards.users import FRONT, OBJECTIVES

BOARDS = (OBJECTIVES, HANDOFFS, SESSIONS, MEMORY, DRAFTS, WORKERS, FRONT)
