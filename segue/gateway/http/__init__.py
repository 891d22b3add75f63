"""What the routes of each API are made of: requests, fields, errors, streams."""
