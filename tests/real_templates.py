"""Chat templates like those of Qwen3.5, 3.6 and 3.8, in our own words.

Control tokens, white space and the rules for keeping and dropping text are those of the published
templates, construct by construct: macros, namespaces, reversed loops, neighbours in a loop, text
cut at `</think>`, parts of a list, exceptions.
"""

# ruff: noqa: E501  # a template's white space is part of it

from __future__ import annotations

KINDS = ("3.5", "3.5-nothink", "3.6", "3.8")


def template(kind: str) -> str:
    """The template of one of `KINDS`."""
    source = _TEMPLATE
    for place, text in _CHOICES[kind].items():
        assert f"<<{place}>>" in source
        source = source.replace(f"<<{place}>>", text)
    assert "<<" not in source
    return source


_TEMPLATE = r"""
{%- set seen = namespace(images=0, videos=0) %}
{%- macro flatten(content, counting, first=false) %}
    {%- if content is string %}
        {{- content }}
    {%- elif content is iterable and content is not mapping %}
        {%- for part in content %}
            {%- if 'image' in part or 'image_url' in part or part.type == 'image' %}
                {%- if first %}
                    {{- raise_exception('A system message has no images.') }}
                {%- endif %}
                {%- if counting %}
                    {%- set seen.images = seen.images + 1 %}
                {%- endif %}
                {%- if add_vision_id %}
                    {{- 'Image ' ~ seen.images ~ ': ' }}
                {%- endif %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'video' in part or part.type == 'video' %}
                {%- if first %}
                    {{- raise_exception('A system message has no videos.') }}
                {%- endif %}
                {%- if counting %}
                    {%- set seen.videos = seen.videos + 1 %}
                {%- endif %}
                {%- if add_vision_id %}
                    {{- 'Film ' ~ seen.videos ~ ': ' }}
                {%- endif %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- else %}
                {{- raise_exception('A part of this kind is not known.') }}
            {%- endif %}
        {%- endfor %}
    {%- elif content is none or content is undefined %}
        {{- '' }}
    {%- else %}
        {{- raise_exception('Content of this kind is not known.') }}
    {%- endif %}
{%- endmacro %}
{%- if not messages %}
    {{- raise_exception('There are no messages.') }}
{%- endif %}
{%- set effort = '' %}
<<effort>>
{%- set opening = '' %}
{%- if messages[0].role == 'system' %}
    {%- set opening = flatten(messages[0].content, false, true)|trim %}
{%- endif %}
{%- if tools and tools is iterable and tools is not mapping %}
    {{- '<|im_start|>system\n' }}
    {%- if effort %}
        {{- effort + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nThese functions can be called:\n\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>" }}
    {{- '\n\nA call looks like this, with nothing after it:\n\n<tool_call>\n<function=name>\n<parameter=first>\nvalue\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\n- Give every required parameter\n</IMPORTANT>' }}
    {%- if opening %}
        {{- '\n\n' + opening }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- elif <<opens>> %}
    {%- if effort and opening %}
        {%- set opening = effort + '\n\n' + opening %}
    {%- elif effort %}
        {%- set opening = effort %}
    {%- endif %}
    {{- '<|im_start|>system\n' + opening + '<|im_end|>\n' }}
{%- endif %}
{%- set last = namespace(searching=true, query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if last.searching and message.role == "user" %}
        {%- set content = flatten(message.content, false)|trim %}
        {%- if not(content.startswith('<tool_response>') and content.endswith('</tool_response>')) %}
            {%- set last.searching = false %}
            {%- set last.query = (messages|length - 1) - loop.index0 %}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if last.searching %}
    {{- raise_exception('No user asks anything.') }}
{%- endif %}
{%- for message in messages %}
    {%- set content = flatten(message.content, true)|trim %}
    {%- if message.role == "system" %}
        {%- if not loop.first %}
            {{- raise_exception('A system message stands at the beginning.') }}
        {%- endif %}
    {%- elif message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        <<inline>>
        {%- endif %}
        {%- set thought = thought|trim %}
        {{- '<|im_start|>' + message.role + '\n' }}
        {%- if <<kept>> %}
            {{- '<think>\n' + thought + '\n</think>\n\n' }}
        {%- endif %}
        {{- content }}
        {%- if message.tool_calls and message.tool_calls is iterable and message.tool_calls is not mapping %}
            {%- for call in message.tool_calls %}
                {%- if call.function is defined %}
                    {%- set call = call.function %}
                {%- endif %}
                {%- if not loop.first %}
                    {{- '\n' }}
                {%- elif content|trim %}
                    {{- '\n\n' }}
                {%- endif %}
                {{- '<tool_call>\n<function=' + call.name + '>\n' }}
                {%- if <<has_arguments>> %}
                    {%- for name, value in call.arguments|items %}
                        {{- '<parameter=' + name + '>\n' }}
                        {%- set value = <<value>> %}
                        {{- value }}
                        {{- '\n</parameter>\n' }}
                    {%- endfor %}
                {%- endif %}
                {{- '</function>\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.previtem and loop.previtem.role != "tool" %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- else %}
        {{- raise_exception('A role of this name is not known.') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if <<thinks>> %}
        {{- '<think>\n' }}
    {%- else %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
""".lstrip("\n")

_EFFORT = r"""
{%- if enable_thinking is undefined or enable_thinking is true %}
    {%- set level = reasoning_effort|default('xhigh') %}
    {%- if level not in ('xhigh', 'medium', 'low') %}
        {{- raise_exception('Effort ' ~ reasoning_effort ~ ' is not xhigh, medium or low.') }}
    {%- endif %}
    {%- if level == 'xhigh' %}
        {%- set effort = 'Think as long as it takes, and check what you assume.' %}
    {%- elif level == 'low' %}
        {%- set effort = 'Think briefly.' %}
    {%- endif %}
{%- endif %}
""".strip()
_INLINE = r"""
        {%- else %}
            {%- if '</think>' in content %}
                {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
""".strip()
_AS_PYTHON = (
    "value | tojson | safe if value is mapping or (value is sequence and value is not string) "
    "else value | string"
)
_AS_JSON = "value | string if value is string else value | tojson | safe"

_THINKS = "not (enable_thinking is defined and enable_thinking is false)"
_QWEN_3_5 = {
    "effort": "{# as long as it likes #}",
    "opens": "messages[0].role == 'system'",
    "inline": _INLINE,
    "kept": "loop.index0 > last.query",
    "has_arguments": "call.arguments is defined",
    "value": _AS_PYTHON,
    "thinks": _THINKS,
}
_CHOICES = {
    "3.5": _QWEN_3_5,
    "3.5-nothink": {
        **_QWEN_3_5,
        "thinks": "enable_thinking is defined and enable_thinking is true",
    },
    "3.6": {
        **_QWEN_3_5,
        "kept": "(preserve_thinking is defined and preserve_thinking is true) "
        "or (loop.index0 > last.query)",
        "value": _AS_JSON,
    },
    "3.8": {
        "effort": _EFFORT,
        "opens": "effort or opening",
        "inline": "{# thoughts come as reasoning_content #}",
        "kept": "preserve_thinking is undefined or preserve_thinking is true "
        "or loop.index0 > last.query",
        "has_arguments": "call.arguments is defined and call.arguments != ''",
        "value": _AS_JSON,
        "thinks": _THINKS,
    },
}
