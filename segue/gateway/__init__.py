"""The HTTP front door: the APIs of OpenAI and Anthropic, answered by a cluster.

A process of its own, without state: several may serve one router. It knows the cluster only through
the SDK.

    door.py      what every request passes: request id, hang-ups, metrics, one log line
    app.py       the routes
    fields.py    request bodies, and which of their fields are honoured, ignored or refused
    turns.py     a request's turns, as parts of answers
    openai/, anthropic/   each API's requests, answers and events
"""
