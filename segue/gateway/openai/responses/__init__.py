"""`POST /v1/responses`: OpenAI's Responses API.

request.py   the fields, and the turn that they want
items.py     input items as the messages of a chat
tools.py     functions, also those in namespaces
output.py    output items and their events
answer.py    the response, whole or as a stream of events
"""
