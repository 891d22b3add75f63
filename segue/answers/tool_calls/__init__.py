"""Tool calls in a model's answer: which parts of the text are calls, and what their arguments mean.

    markup.py    the text as tags and Hermes calls, in one pass
    hermes.py    calls in JSON
    json_scanner.py  a JSON value that arrives in pieces
    reading.py   which tags open and close calls and parameters, and which are only text
    steps.py     what a reading took for markup, and what it costs
    schema.py    what a tool's schema allows for a parameter
    literals.py  JSON and Python literals as models write them
    values.py    a parameter's text as a value that fits its schema
    calls.py     calls and the text around them, as the text arrives
    writers.py   the content around calls, and a call's arguments, as they are written out

`markup` and `reading` know nothing about values, and `values` nothing about markup.
"""
