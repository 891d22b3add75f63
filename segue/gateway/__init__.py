"""The HTTP front door: the APIs of OpenAI and Anthropic, answered by a cluster.

A separate, stateless process: several may serve one router. It talks to the cluster only through
the SDK.

    app.py       the routes
    http/        what all routes share: request ids, fields, errors, answers, streams
    turns.py     runs a request's turns and parses their answers
    openai/, anthropic/   each API's requests, answers and events
"""
