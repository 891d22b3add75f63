"""The status page: `GET /ui`, and `GET /ui/events`, what it shows."""
