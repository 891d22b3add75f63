"""The HTTP front door: the APIs of OpenAI and Anthropic, answered by a cluster.

A process of its own, without state: several may serve one router. It knows the cluster only through
the SDK.

    app.py       the routes
    http/        what routes are made of: request ids, fields, errors, streams
    turns.py     a request's turns, as parts of answers
    openai/, anthropic/   each API's requests, answers and events
"""
