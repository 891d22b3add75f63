"""What all routes share: the HTTP protocol, request ids, fields, errors, answers, streams."""
